// PrefillTrace records the spans of one Prefill call on the prefill node; docs/tracing.md defines
// each. Without a tracer it does nothing. A value.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "prefill_service/prefill_totals.h"
#include "service/tracer.h"

namespace kvship {

class PrefillTrace {
 public:
  PrefillTrace() = default;
  // Starts when the call arrives. Borrows the tracer; `caller` is what its client sent.
  PrefillTrace(Tracer& tracer, const TraceContext& caller)
      : tracer_(&tracer),
        caller_span_id_(caller.span_id),
        context_(tracer.Below(caller)),
        begin_(MonotonicNow()) {}

  // The call's own context; not set if the call is not traced.
  const TraceContext& context() const { return context_; }

  // The call has ended.
  void End(const std::string& request_id, const PrefillTotals& totals,
           const absl::Status& status) const;

 private:
  void RecordBelow(const char* name, absl::Time begin, absl::Time end, absl::Duration busy) const;

  Tracer* tracer_ = nullptr;
  std::string caller_span_id_;
  TraceContext context_;
  absl::Time begin_;
};

}  // namespace kvship
