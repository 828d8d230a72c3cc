// Tracer is a program's access to tracing: it creates the contexts of requests and their spans, and
// passes sampled spans to an exporter, if there is one. Without an exporter it only propagates
// incoming contexts. Thread safe.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "service/trace_context.h"
#include "service/trace_exporter.h"
#include "service/trace_span.h"

namespace kvship {

class Tracer {
 public:
  // Sends spans to `endpoint` from now on, unless it is empty. Call before the first request, if at
  // all. Borrows the registry. Errors: as TraceExporter::Create.
  absl::Status Start(const std::string& service, const std::string& endpoint,
                     prometheus::Registry& registry);

  // Returns the context of a child span of `parent` or, for a caller without a trace, of a new
  // trace if there is an exporter. If no span will be recorded, returns `parent`, so that spans
  // further down have the right parent.
  TraceContext Below(const TraceContext& parent) const {
    const bool records = exporter_ != nullptr && (parent.sampled || !parent.is_set());
    return records ? NewSpan(parent) : parent;
  }

  // Returns whether its spans are recorded; others need not be made.
  bool Records(const TraceContext& context) const {
    return exporter_ != nullptr && context.sampled;
  }
  void Record(TraceSpan span) {
    if (Records(span.context)) exporter_->Add(std::move(span));
  }

 private:
  std::unique_ptr<TraceExporter> exporter_;  // may be null
};

}  // namespace kvship
