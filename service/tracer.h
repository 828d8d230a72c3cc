// Tracer is how a program takes part in traces: it gives requests and what is done for them their
// places in a trace, and hands spans that are sampled to an exporter, if there is one. Without one
// it only hands on what came. Thread safe.
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
  // From now on spans are sent to `endpoint`, if it is not empty. Before the first request, where
  // at all. Borrows the registry. Errors: as TraceExporter::Create.
  absl::Status Start(const std::string& service, const std::string& endpoint,
                     prometheus::Registry& registry);

  // The context of what is done below `parent`, or of a request from a caller without a trace: a
  // trace begins here then, if there is an exporter. Where no span will be recorded it is that of
  // `parent`, so that those further down hang where they should.
  TraceContext Below(const TraceContext& parent) const {
    const bool records = exporter_ != nullptr && (parent.sampled || !parent.is_set());
    return records ? NewSpan(parent) : parent;
  }

  // Whether spans of it are kept; those of others need not be made.
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
