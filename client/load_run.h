// LoadRun sends planned requests at their times, whatever the state of earlier ones, and times the
// responses. Latencies count from the planned send time, so that a lagging generator cannot hide a
// lagging server.
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
    // Common to all requests. Without an input, each gets a prompt of random ids below
    // vocab_tokens, of the planned length.
    v1::GenerateRequest request = {};
    uint32_t vocab_tokens = 0;
    uint64_t seed = 0;
    absl::Duration timeout = absl::InfiniteDuration();
    // Concurrent requests; above this limit a request is not sent and counts as ResourceExhausted.
    // In a closed loop arrival times are ignored: a request is sent whenever fewer are in flight.
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

  // Runs the plan to its end. Calls `on_progress` about once a second, on this thread.
  std::vector<LoadRequestResult> Run(const std::vector<PlannedRequest>& plan,
                                     const std::function<void(const Progress&)>& on_progress);

 private:
  class Call;

  void Send(const PlannedRequest& planned, size_t index, absl::Time at);
  void Finished(size_t index, LoadRequestResult result);
  // Waits until done(now), which it checks when a request has finished and at `wake`; reports
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
