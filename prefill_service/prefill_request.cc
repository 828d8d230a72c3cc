#include "prefill_service/prefill_request.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "rpc/cache_messages.h"
#include "rpc/errors.h"
#include "rpc/sealed_message.h"
#include "rpc/wire_version.h"

namespace kvship {

void PrefillScheduler::Request::TellReady(absl::Time now) {
  state = State::kReady;
  became_ready = now;
  v1::PrefillResponse response;
  v1::PrefillReady& ready = *response.mutable_ready();
  *ready.mutable_wire_version() = WireVersionProto();
  if (task.offers_nccl) ready.add_transports(kNcclTransport);
  ready.add_transports(kGrpcTransport);
  *ready.mutable_plan() = PlanToProto(task.plan);
  channel->SendMessage(Sealed(response));
}

void PrefillScheduler::Request::TellPlace(size_t place) const {
  v1::PrefillResponse response;
  response.mutable_queued()->set_place(static_cast<uint32_t>(place));
  channel->SendMessage(Sealed(response));
}

void PrefillScheduler::Request::WatchReader(size_t max_outbox_bytes, absl::Time now) {
  const size_t unsent_bytes = channel->unsent_bytes();
  if (!is_sending() && unsent_bytes <= max_outbox_bytes) {
    stalled_since = absl::InfiniteFuture();
  } else if (stalled_since == absl::InfiniteFuture() || unsent_bytes != stalled_bytes) {
    stalled_since = now;
    stalled_bytes = unsent_bytes;
  }
  if (job != nullptr && !job->is_packed() && unsent_bytes > max_outbox_bytes) {
    blocked_since_ = std::min(blocked_since_, now);
  } else if (blocked_since_ != absl::InfiniteFuture()) {
    shipment->AddReaderWait(now - std::exchange(blocked_since_, absl::InfiniteFuture()));
  }
}

void PrefillScheduler::Request::TellEnd(const absl::Status& status) const {
  const absl::Duration age = MonotonicNow() - arrived;
  const PrefillTotals totals =
      shipment != nullptr ? shipment->totals() : PrefillTotals{.queue_time = age};
  task.trace.End(task.request_id, totals, status);
  LogInfo("request ended", {{"request_id", task.request_id},
                            {"trace_id", task.trace.context().trace_id},
                            {"code", absl::StatusCodeToString(status.code())},
                            {"error", LoggedMessage(status)},
                            {"prompt_tokens", task.tokens.size()},
                            {"reused_tokens", totals.reused_tokens},
                            {"kept_tokens", totals.kept_tokens},
                            {"uncompressed_bytes", task.plan.uncompressed_bytes()},
                            {"shipped_bytes", totals.shipped_bytes},
                            {"queue_ms", absl::ToDoubleMilliseconds(totals.queue_time)},
                            {"prefill_ms", absl::ToDoubleMilliseconds(totals.prefill_time)},
                            {"compress_ms", absl::ToDoubleMilliseconds(totals.compress_time)},
                            {"total_ms", absl::ToDoubleMilliseconds(age)}});
}

}  // namespace kvship
