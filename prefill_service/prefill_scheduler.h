// PrefillScheduler decides whose step the engine computes next. Requests wait in one queue, bounded
// in requests and tokens; the first few are told Ready, and once their clients have said Go they
// take turns on the one engine thread. Between any two steps a shorter request may come first, and
// any can be cancelled. Short prompts whose turn has come are packed into one run. A request whose
// reader is slow does not run, so that what is unsent stays bounded, and another may. What has been
// read counts among the requests of the queue until the network has taken its cache.
//
// The order is shortest remaining time first, with ageing (KeyOf): each request's key is the time
// it arrived plus twice what it still takes, so that a long one is overtaken only by those that
// arrive within twice its own length.
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
    // Bounds of what is admitted: requests that have not ended, and tokens of those not yet read. A
    // request that finds nothing else to read is admitted whatever its length. Past them:
    // ResourceExhausted. A request that waits holds 4 bytes a token, so that the bound in tokens is
    // one in bytes too.
    size_t max_queue_requests = 256;
    size_t max_queue_tokens = 1 << 20;
    // How many requests may be ready at once: each may hold its whole reservation on the decode
    // node. A client that does not say Go at once is not counted until it does, here and below; nor
    // is, here, one whose reader is slow.
    size_t max_active_requests = 16;
    // What their runs may hold here in all: residual streams, and one layer of KV each. A request
    // that takes more by itself is refused for good.
    size_t max_active_bytes = size_t{4} << 30;
    // A request with more unsent bytes than this does not run. A layer is sent whole, so that up to
    // one compact layer more may be unsent; of packed prompts, their whole caches.
    size_t max_outbox_bytes = 32 << 20;
    // While more than this is unsent in all, no run begins: many slow readers together must not
    // exhaust the node's memory. Those that have begun go on, within max_outbox_bytes each.
    size_t max_unsent_bytes = size_t{1} << 30;
    // From Ready to Go.
    absl::Duration go_timeout = absl::Seconds(30);
    // A full outbox, or the last of a cache, that has not moved for so long ends the request.
    absl::Duration stall_timeout = absl::Seconds(30);
    // An engine thread that gives no sign of life for so long is stuck, and the node not ready.
    absl::Duration stuck_timeout = absl::Seconds(60);

    // InvalidArgument naming the field.
    absl::Status Validate() const;
  };

  // One request in the scheduler's hands; opaque to others.
  class Request;

  // Borrows reader and metrics, which must outlive it. The reader belongs to its thread.
  PrefillScheduler(PromptReader& reader, PrefillMetrics& metrics, const Options& options);

  // Ends what is left with Unavailable.
  ~PrefillScheduler();

  // Admits a request; from then on it answers on `channel`, and closes it at the end.
  // FailedPrecondition as PromptReader::Check, or if its run takes more than max_active_bytes;
  // ResourceExhausted with a retry delay if the queue is full, Unavailable while draining.
  absl::StatusOr<std::shared_ptr<Request>> Submit(PrefillTask task,
                                                  std::shared_ptr<Channel> channel);

  // The client has reserved memory. DataLoss if it was not told Ready, or said Go before.
  absl::Status Go(Request& request);

  // Nobody reads what the request sends any more, for `why`: what it holds is freed before the next
  // step.
  void Cancel(Request& request, const absl::Status& why);

  // Some channel has sent something.
  void NoticeSent();

  // Refuses new requests and those still queued. Those that were told Ready go on.
  void StartDraining();
  // Ends all requests with Unavailable, after the engine's present step.
  void EndAll();

  // As Heartbeat::Check of the engine thread. Never waits.
  absl::Status CheckProgress() const;

  // Prompt tokens of requests that were admitted and are still to be read.
  size_t admitted_tokens() const;

  // A request for people to see.
  struct Prompt {
    // Ready: its client has not said Go yet. Sending: it has been read.
    enum class State { kQueued, kReady, kRunning, kSending };
    std::string request_id;
    size_t prompt_tokens = 0;
    State state = State::kQueued;
    double fraction = 0;  // of it, and what is read with it, that has been read
    absl::Duration age = {};
  };
  // Those admitted that have not ended, in the order of their turns.
  std::vector<Prompt> Prompts() const;

 private:
  using Requests = std::vector<std::shared_ptr<Request>>;
  // What max_active_requests and max_active_bytes bound.
  struct Load {
    size_t num_requests = 0;
    size_t run_bytes = 0;
  };

  void Run();
  // With the lock: what there is to do has changed.
  void Wake() {
    woken_ = true;
    wake_.notify_one();
  }
  // One step of the first request's job, which is begun where there is none.
  void RunStep(const std::shared_ptr<Request>& first, std::unique_lock<std::mutex>& lock);
  void AddTo(Load* load, const Request& request) const;
  // Whether one more is within the bounds.
  bool HasRoom(const Load& load, const Request& request) const;
  // Of requests whose runs have begun.
  Load Begun() const;
  // Of the caches that are being read or sent.
  size_t UnsentBytes() const;
  // The request whose turn it is; null if none can run.
  std::shared_ptr<Request> NextToRun();
  // `first`, and if it is short the next ones that fit into one block with it.
  Requests PackFrom(const std::shared_ptr<Request>& first);
  absl::StatusOr<std::shared_ptr<PrefillJob>> BeginJob(const Requests& requests);
  // The prompt has been read, and the request ends once all has been sent.
  void BeginSending(Request& request);
  // Deducts from new requests what need not be read of them.
  void Estimate();
  // What orders requests, the smallest first, in seconds.
  double KeyOf(const Request& request) const;
  void Sort();
  absl::Status CheckRunBytes(size_t num_tokens, size_t run_bytes) const;
  void EndSent();
  void EndOverdue(absl::Time now);
  void SendReady(absl::Time now);
  void TellPlaces();
  void End(Request& request, absl::Status status);
  void UpdateGauges();
  bool Blocked(const Request& request) const;

  PromptReader& reader_;
  PrefillMetrics& metrics_;
  const Options options_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // In the order of their turns. shared: channels' events hold them too.
  Requests requests_;
  bool woken_ = false;
  bool draining_ = false;
  bool ends_all_ = false;
  bool stopping_ = false;
  size_t admitted_tokens_ = 0;
  ReadingRate rate_;
  Heartbeat heartbeat_;  // of the engine thread
  std::thread thread_;
};

}  // namespace kvship
