// PrefillScheduler::Request is one admitted request: its task, its stream and its state. The
// scheduler's mutex guards it; job and shipment belong to the engine thread.
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

  Request(PrefillTask wanted, size_t held_bytes, std::shared_ptr<FrameChannel> stream,
          absl::Time now)
      : task(std::move(wanted)),
        run_bytes(held_bytes),
        channel(std::move(stream)),
        remaining_tokens(static_cast<double>(task.tokens.size())),
        arrived(now) {}

  size_t num_tokens() const { return task.tokens.size(); }
  bool is_queued() const { return state == State::kQueued; }
  bool awaits_go() const { return state == State::kReady; }
  // Ready was sent, and the prompt is not read yet.
  bool is_active() const { return state == State::kReady || state == State::kRunning; }
  bool is_sending() const { return state == State::kSending; }
  bool has_begun() const { return job != nullptr || is_sending(); }
  // The share of its run that has been read, or was cached.
  double fraction() const {
    if (job == nullptr) return is_sending() ? 1 : 0;
    return 1 - remaining_tokens / static_cast<double>(job->num_tokens());
  }
  // Tokens of the prompt to be read: of a run over several prompts, its part.
  double unread_tokens() const {
    if (job == nullptr) return is_sending() ? 0 : remaining_tokens;
    return (1 - fraction()) * static_cast<double>(num_tokens());
  }

  void TellReady(absl::Time now);
  // Says that it waits, and behind how many.
  void TellPlace(size_t place) const;
  // Checks whether the reader consumes what was sent, and how long it has blocked the request's
  // run.
  void WatchReader(size_t max_outbox_bytes, absl::Time now);
  // Logs the end and ends the trace.
  void TellEnd(const absl::Status& status) const;

  const PrefillTask task;
  const size_t run_bytes;                       // memory of its run: PromptReader::BytesFor
  const std::shared_ptr<FrameChannel> channel;  // shared: with the call, which may end first
  State state = State::kQueued;
  absl::Status cancelled;  // OK: not cancelled
  bool ended = false;
  bool is_estimated = false;  // reusable tokens have been deducted
  double remaining_tokens;    // to be read in its run, computed layers deducted
  const absl::Time arrived;
  absl::Time became_ready;
  absl::Time go_time;
  // Since when the outbox has had this many bytes, while it is full or all that is left to send.
  absl::Time stalled_since = absl::InfiniteFuture();
  size_t stalled_bytes = 0;
  // Set from the first step on. shared: by requests packed into one run
  std::unique_ptr<PrefillShipment> shipment;
  std::shared_ptr<PrefillJob> job;

 private:
  absl::Time blocked_since_ = absl::InfiniteFuture();
};

}  // namespace kvship
