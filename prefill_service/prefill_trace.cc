#include "prefill_service/prefill_trace.h"

#include <algorithm>

namespace kvship {

void PrefillTrace::RecordBelow(const char* name, absl::Time begin, absl::Time end,
                               absl::Duration busy) const {
  tracer_->Record({.name = name,
                   .context = tracer_->Below(context_),
                   .parent_id = context_.span_id,
                   .begin = begin,
                   .end = end,
                   .attributes = {{"kvship.busy_ms", absl::ToDoubleMilliseconds(busy)}}});
}

void PrefillTrace::End(const std::string& request_id, const PrefillTotals& totals,
                       const absl::Status& status) const {
  if (tracer_ == nullptr || !tracer_->Records(context_)) return;
  const absl::Time now = MonotonicNow();
  const absl::Time computing = std::min(now, totals.compute_begin);
  RecordBelow("prefill queue", begin_, computing, absl::ZeroDuration());
  if (computing < now) {
    RecordBelow("compute", computing, std::min(now, totals.compute_end), totals.prefill_time);
  }
  if (totals.compress_begin < now) {
    RecordBelow("compress", totals.compress_begin, totals.compress_end, totals.compress_time);
  }
  tracer_->Record({.name = "prefill",
                   .kind = TraceSpan::Kind::kServer,
                   .context = context_,
                   .parent_id = caller_span_id_,
                   .begin = begin_,
                   .end = now,
                   .attributes = {{"kvship.request_id", request_id},
                                  {"kvship.reused_tokens", uint64_t{totals.reused_tokens}},
                                  {"kvship.kept_tokens", totals.kept_tokens},
                                  {"kvship.shipped_bytes", uint64_t{totals.shipped_bytes}}},
                   .status = status});
}

}  // namespace kvship
