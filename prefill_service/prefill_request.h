// One request in the scheduler's hands: what it asks for, its stream, and how far it is. Guarded by
// the scheduler's mutex; job and shipment belong to the engine thread.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "prefill_service/prefill_job.h"
#include "prefill_service/prefill_scheduler.h"
#include "prefill_service/prefill_shipment.h"
#include "prefill_service/prefill_task.h"
#include "transport/channel.h"

namespace kvship {

class PrefillScheduler::Request {
 public:
  using State = Prompt::State;

  Request(PrefillTask wanted, size_t held_bytes, std::shared_ptr<Channel> stream, absl::Time now)
      : task(std::move(wanted)),
        run_bytes(held_bytes),
        channel(std::move(stream)),
        remaining_tokens(static_cast<double>(task.tokens.size())),
        arrived(now) {}

  size_t num_tokens() const { return task.tokens.size(); }
  bool is_queued() const { return state == State::kQueued; }
  // Told Ready, and not yet read.
  bool is_active() const { return state == State::kReady || state == State::kRunning; }
  bool is_sending() const { return state == State::kSending; }
  bool has_begun() const { return job != nullptr || is_sending(); }

  void TellReady(absl::Time now);
  // Says nothing twice.
  void TellPlace(size_t place);
  // Notes whether the reader takes what was sent, and how long it has held up the request's run.
  void WatchReader(size_t max_outbox_bytes, absl::Time now);
  // For the log, and for the trace.
  void TellEnd(const absl::Status& status) const;

  const PrefillTask task;
  const size_t run_bytes;                  // that its run holds: PromptReader::BytesFor
  const std::shared_ptr<Channel> channel;  // shared with the call, which may end first
  State state = State::kQueued;
  absl::Status cancelled;  // OK: it is not
  bool ended = false;
  bool is_estimated = false;  // what of it need not be read has been deducted
  double remaining_tokens;    // of its run to be read, computed layers deducted
  const absl::Time arrived;
  absl::Time became_ready;
  absl::Time go_time;
  // While the outbox is full or is the last to go: since when it has this many bytes.
  absl::Time stalled_since = absl::InfiniteFuture();
  size_t stalled_bytes = 0;
  // From the first step on. shared: by those packed into one run
  std::unique_ptr<PrefillShipment> shipment;
  std::shared_ptr<PrefillJob> job;

 private:
  size_t told_place_ = SIZE_MAX;
  absl::Time blocked_since_ = absl::InfiniteFuture();
};

}  // namespace kvship
