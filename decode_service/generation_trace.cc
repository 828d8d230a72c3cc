#include "decode_service/generation_trace.h"

#include <utility>

#include "base/clock.h"

namespace kvship {

GenerationTrace::GenerationTrace(Tracer& tracer, const TraceContext& caller)
    : tracer_(tracer),
      caller_span_id_(caller.span_id),
      context_(tracer.Below(caller)),
      begin_(MonotonicNow()),
      queue_begin_(begin_) {}

TraceSpan GenerationTrace::Below(const TraceContext& parent, const char* name, absl::Time begin,
                                 absl::Time end) const {
  return {.name = name,
          .context = tracer_.Below(parent),
          .parent_id = parent.span_id,
          .begin = begin,
          .end = end};
}

void GenerationTrace::BeginQueue() {
  std::lock_guard lock(mutex_);
  if (!queue_begin_) queue_begin_ = MonotonicNow();
}

void GenerationTrace::EndQueueLocked(absl::Time now) {
  if (!queue_begin_) return;
  tracer_.Record(Below(context_, "queue", *queue_begin_, now));
  queue_begin_.reset();
}

TraceContext GenerationTrace::BeginAttempt(const std::string& node_address) {
  std::lock_guard lock(mutex_);
  const absl::Time now = MonotonicNow();
  EndQueueLocked(now);
  attempt_ = Below(context_, "prefill attempt", now, now);
  attempt_->kind = TraceSpan::Kind::kClient;
  attempt_->attributes = {{"server.address", node_address}};
  return attempt_->context;
}

void GenerationTrace::EndAttempt(const absl::Status& status, absl::Duration transfer) {
  std::lock_guard lock(mutex_);
  if (!attempt_) return;
  attempt_->end = MonotonicNow();
  attempt_->status = status;
  if (transfer > absl::ZeroDuration()) {
    tracer_.Record(Below(attempt_->context, "transfer", attempt_->end - transfer, attempt_->end));
  }
  tracer_.Record(*std::exchange(attempt_, std::nullopt));
}

void GenerationTrace::BeginDecode() {
  std::lock_guard lock(mutex_);
  decode_begin_ = MonotonicNow();
}

void GenerationTrace::EndDecode(const Session::End& end) {
  std::lock_guard lock(mutex_);
  TraceSpan decode = Below(context_, "decode", decode_begin_, decode_begin_ + end.decode);
  if (end.first_decode > absl::ZeroDuration()) {
    tracer_.Record(
        Below(decode.context, "first decode", decode_begin_, decode_begin_ + end.first_decode));
  }
  decode.attributes = {{"kvship.output_tokens", uint64_t{end.output_tokens}}};
  decode.status = end.status;
  tracer_.Record(std::move(decode));
}

void GenerationTrace::End(const std::string& request_id, const absl::Status& status,
                          const v1::GenerateReport& report) {
  std::lock_guard lock(mutex_);
  if (!tracer_.Records(context_)) return;
  const absl::Time now = MonotonicNow();
  EndQueueLocked(now);
  const v1::KvReport& kv = report.kv();
  tracer_.Record({.name = "request",
                  .kind = TraceSpan::Kind::kServer,
                  .context = context_,
                  .parent_id = caller_span_id_,
                  .begin = begin_,
                  .end = now,
                  .attributes = {{"kvship.request_id", request_id},
                                 {"kvship.prompt_tokens", uint64_t{report.usage().prompt_tokens()}},
                                 {"kvship.output_tokens", uint64_t{report.usage().output_tokens()}},
                                 {"kvship.kept_tokens", kv.kept_tokens()},
                                 {"kvship.uncompressed_bytes", uint64_t{kv.uncompressed_bytes()}},
                                 {"kvship.shipped_bytes", uint64_t{kv.shipped_bytes()}},
                                 {"kvship.retained_mass_mean", kv.retained_mass_mean()}},
                  .status = status});
}

}  // namespace kvship
