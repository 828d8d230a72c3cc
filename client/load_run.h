// LoadRun sends planned requests at their times, whatever became of those before, and times what
// comes back. Latencies count from when a request was to be sent, so that a generator that lags
// cannot hide a server that does.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/generation_client.h"
#include "client/load_plan.h"

namespace kvship {

struct LoadRequestResult {
  absl::Status status;
  absl::Duration first_token;                       // from the planned arrival
  absl::Duration total;                             // likewise
  std::vector<absl::Duration> between_tokens = {};  // one per output token but the first
  size_t prompt_tokens = 0;
  size_t reused_tokens = 0;  // of the prompt
  size_t output_tokens = 0;
  size_t uncompressed_bytes = 0;
  size_t shipped_bytes = 0;
};

class LoadRun {
 public:
  struct Options {
    // What all requests have in common. Without an input each gets a prompt of random ids below
    // vocab_tokens, as long as planned.
    v1::GenerateRequest request = {};
    uint32_t vocab_tokens = 0;
    uint64_t seed = 0;
    absl::Duration timeout = absl::InfiniteDuration();
    // Requests under way at a time; past them one is not sent and counts as ResourceExhausted. In a
    // closed loop arrivals are ignored: a request is sent whenever fewer are under way.
    size_t max_in_flight = 4096;
    bool closed_loop = false;
  };
  struct Progress {
    absl::Duration since_begin;
    size_t num_sent = 0, num_running = 0, num_succeeded = 0, num_failed = 0;
  };

  // Borrows the client.
  LoadRun(GenerationClient& client, Options options)
      : client_(client), options_(std::move(options)) {}

  // Runs the plan to its end; `on_progress` is called about once a second, on this thread.
  std::vector<LoadRequestResult> Run(const std::vector<PlannedRequest>& plan,
                                     const std::function<void(const Progress&)>& on_progress);

 private:
  class Call;

  void Send(const PlannedRequest& planned, size_t index, absl::Time at);
  void Finished(size_t index, LoadRequestResult result);
  // Waits until done(now), looked at when something has finished and at `wake`; tells of the
  // progress meanwhile.
  void WaitUntil(const std::function<bool(absl::Time)>& done, absl::Time wake,
                 const std::function<void(const Progress&)>& on_progress);

  GenerationClient& client_;
  const Options options_;
  absl::Time begin_;
  absl::Time told_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Progress progress_;
  std::vector<LoadRequestResult> results_;
};

}  // namespace kvship
