// PrefillScheduler decides which request's step the engine computes next. Requests wait in one
// queue, bounded in requests and tokens. The first few are sent Ready; once their clients answer
// Go, they take turns on the one engine thread. Between two steps a shorter request may preempt,
// and any may be cancelled. Short prompts are packed into one run. A request with a slow reader is
// paused, which bounds its unsent bytes, and another may run. A request that has been read counts
// against the limit of requests until the network has taken its cache. Thread safe.
//
// The order is shortest remaining time first, with ageing (KeyOf): a request's key is its arrival
// time plus twice its remaining time, so that only those that arrive within twice its own length
// overtake a long one.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/heartbeat.h"
#include "prefill_service/prefill_job.h"
#include "prefill_service/prefill_metrics.h"
#include "prefill_service/prefill_task.h"
#include "prefill_service/prompt_reader.h"
#include "prefill_service/reading_rate.h"
#include "transport/channel.h"

namespace kvship {

class PrefillScheduler {
 public:
  struct Options {
    // Admission limits: requests not yet ended, and tokens of those not yet read. If nothing else
    // is left to read, a request of any length is admitted. Above them: ResourceExhausted. A queued
    // request holds 4 bytes per token, so the limit in tokens is also one in bytes.
    size_t max_queue_requests = 256;
    size_t max_queue_tokens = 1 << 20;
    // Requests that may be ready at once: each may hold its whole reservation on the decode node. A
    // client that delays its Go is not counted until it sends it, here and below; nor, here, is a
    // request with a slow reader.
    size_t max_active_requests = 16;
    // Total memory of their runs: residual streams, and one layer of KV each. A request that needs
    // more by itself is rejected for good.
    size_t max_active_bytes = size_t{4} << 30;
    // A request with more unsent bytes than this is paused. A layer is sent whole, so up to one
    // more compact layer may be unsent; of packed prompts, their whole caches.
    size_t max_outbox_bytes = 32 << 20;
    // While the total of unsent bytes exceeds this, no run starts: many slow readers must not
    // exhaust the node's memory. Started runs continue, within max_outbox_bytes each.
    size_t max_unsent_bytes = size_t{1} << 30;
    // Maximum time from Ready to Go.
    absl::Duration go_timeout = absl::Seconds(30);
    // A request ends if its full outbox, or the rest of its cache, has not moved for this long.
    absl::Duration stall_timeout = absl::Seconds(30);
    // An engine thread without a heartbeat for this long is stuck, and the node is not ready.
    absl::Duration stuck_timeout = absl::Seconds(60);

    // InvalidArgument naming the field.
    absl::Status Validate() const;
  };

  // One admitted request; opaque to callers.
  class Request;

  // Borrows reader and metrics, which must outlive it. Only its engine thread runs the reader.
  PrefillScheduler(PromptReader& reader, PrefillMetrics& metrics, const Options& options);

  // Ends remaining requests with Unavailable.
  ~PrefillScheduler();

  // Admits a request, which then responds on `channel` and closes it at the end. FailedPrecondition
  // as PromptReader::Check, or if its run needs more than max_active_bytes; ResourceExhausted with
  // a retry delay if the queue is full; Unavailable while draining.
  absl::StatusOr<std::shared_ptr<Request>> Submit(PrefillTask task,
                                                  std::shared_ptr<FrameChannel> channel);

  // The client has reserved memory. DataLoss if Ready was not sent, or Go came before.
  absl::Status Go(Request& request);

  // Cancels a request because of `why`: nobody reads its stream any more. Frees what it holds
  // before the next step.
  void Cancel(Request& request, const absl::Status& why);

  // Some channel has sent bytes.
  void NoticeSent();

  // Refuses new requests and ends those still queued. Requests that were sent Ready continue.
  void StartDraining();
  // Ends all requests with Unavailable, after the engine's current step.
  void EndAll();

  // As Heartbeat::Check, for the engine thread. Never blocks.
  absl::Status CheckProgress() const;

  // Prompt tokens of admitted requests that are not read yet, which max_queue_tokens limits.
  size_t admitted_tokens() const;
  // Tokens that are left to read of all admitted requests, without what the prefix cache has. Where
  // it has anything, a request counts from the engine's next step on, when its share is known.
  size_t unread_tokens() const;

  // The state of a request, for display.
  struct Prompt {
    // Ready: its client has not sent Go yet. Sending: the prompt has been read.
    enum class State { kQueued, kReady, kRunning, kSending };
    std::string request_id;
    size_t prompt_tokens = 0;
    State state = State::kQueued;
    double fraction = 0;  // share of its run that has been read, or was cached; 0 before it
    absl::Duration age = {};
  };
  // Admitted requests that have not ended, in scheduling order.
  std::vector<Prompt> Prompts() const;

 private:
  // Time to answer Ready while nothing runs: many silent clients must not stop the engine.
  static constexpr absl::Duration kIdlePatience = absl::Milliseconds(20);

  using Requests = std::vector<std::shared_ptr<Request>>;
  // What max_active_requests and max_active_bytes limit.
  struct Load {
    size_t num_requests = 0;
    size_t run_bytes = 0;
  };

  void Run();
  // Wakes the engine thread. Requires the lock.
  void Wake() {
    woken_ = true;
    wake_.notify_one();
  }
  // Runs one step of `first`'s job, after starting the job if there is none.
  void RunStep(const std::shared_ptr<Request>& first, std::unique_lock<std::mutex>& lock);
  void AddTo(Load* load, const Request& request) const;
  // Returns whether one more request is within the limits.
  bool HasRoom(const Load& load, const Request& request) const;
  // The load of requests whose runs have started.
  Load Begun() const;
  // Unsent bytes of all requests that are being read or sent.
  size_t UnsentBytes() const;
  // Returns the request to run next; null if none can run.
  std::shared_ptr<Request> NextToRun();
  // Returns `first` and, if it is short, the next ones that fit into one block with it.
  Requests PackFrom(const std::shared_ptr<Request>& first);
  absl::StatusOr<std::shared_ptr<PrefillJob>> BeginJob(const Requests& requests);
  // The prompt has been read; the request ends once everything has been sent.
  void BeginSending(Request& request);
  // Deducts prefix cache hits from new requests.
  void Estimate();
  // As unread_tokens; requires the lock.
  size_t UnreadTokens() const;
  // The sort key of requests, smallest first, in seconds.
  double KeyOf(const Request& request) const;
  void Sort();
  absl::Status CheckRunBytes(size_t num_tokens, size_t run_bytes) const;
  void EndSent();
  void EndOverdue(absl::Time now);
  void SendReady(absl::Time now);
  // Of requests that are to be read.
  size_t PlaceOf(const Request& request) const;
  void End(Request& request, absl::Status status);
  void UpdateGauges();
  bool Blocked(const Request& request) const;

  PromptReader& reader_;
  PrefillMetrics& metrics_;
  const Options options_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // In scheduling order. shared: channels' events hold them too.
  Requests requests_;
  bool woken_ = false;
  bool draining_ = false;
  bool ends_all_ = false;
  bool stopping_ = false;
  size_t admitted_tokens_ = 0;
  bool has_prefixes_ = false;  // the reader's prefix cache is not empty
  ReadingRate rate_;
  Heartbeat heartbeat_;  // of the engine thread
  std::thread thread_;
};

}  // namespace kvship
