// DecodeLoop runs continuous batching on its own thread: each step passes the next token of every
// session of the batch through the network. Sessions join, leave and are cancelled between steps; a
// session whose reader lags, or whose structure takes long to follow, skips steps. Thread safe.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/heartbeat.h"
#include "base/task_thread.h"
#include "base/thread_pool.h"
#include "decode_service/announcer.h"
#include "decode_service/decode_metrics.h"
#include "decode_service/session.h"
#include "decode_service/work_queue.h"
#include "engine/decoder.h"

namespace kvship {

class DecodeLoop {
 public:
  // Borrows decoder, threads and metrics. Computes steps on the loop's thread only, with the help
  // of `threads`, which it alone uses. A step takes at most `max_batch_sessions`; if there are
  // more, they take turns.
  DecodeLoop(Decoder& decoder, ThreadPool& threads, DecodeMetrics& metrics,
             size_t max_batch_sessions);
  // Ends remaining sessions with Unavailable.
  ~DecodeLoop();

  // Returns OK if sessions with caches of this plan can join; errors as Decoder::CheckPlan.
  absl::Status CheckPlan(const KvPlan& plan) const { return decoder_.CheckPlan(plan); }

  // Takes a session that has its first token and has not ended. Without memory for it ends it.
  void Join(std::shared_ptr<Session> session);

  // As Heartbeat::Check, for the loop's thread. Never blocks.
  absl::Status CheckProgress(absl::Duration most) const;

 private:
  using Sessions = std::vector<std::shared_ptr<Session>>;

  // A token to be drawn: of an item of the last step, or from the logits that its session kept.
  struct Draw {
    Session* session;
    std::optional<size_t> item;
    absl::StatusOr<std::optional<OutputToken>> token = std::nullopt;
  };

  void Run();
  // Waits until there is work; false when the loop must stop.
  bool TakeJoined();
  void Wake();
  // Fails cancelled sessions, closes those that have ended and removes them.
  void SweepEnded();
  void Close(const std::shared_ptr<Session>& session);
  std::vector<Session*> NextBatch();
  // Those whose structures are known by now.
  std::vector<Draw> LateDraws() const;
  // Runs a step of the decoder. Returns its draws.
  std::vector<Draw> Step(const std::vector<Session*>& batch);
  // Draws the tokens and has their sessions take them.
  void DrawTokens(std::vector<Draw> draws);
  void Take(const Draw& draw);
  // Has another thread find which tokens the structure, if there is one, allows after the last.
  void FollowStructure(Session& session);
  // Checks the device, after a failed step and while idle: a cache stuck in transfer to a lost
  // device never reaches a step.
  void WatchDevice();

  Decoder& decoder_;
  ThreadPool& threads_;
  DecodeMetrics& metrics_;
  const size_t max_batch_sessions_;
  Sessions sessions_;  // of the loop's thread; the least recently served first
  bool idle_ = true;   // no session can run; of the loop's thread

  Heartbeat heartbeat_;
  std::mutex mutex_;
  std::condition_variable wake_;
  Sessions joined_;
  bool woken_ = false;
  bool stop_ = false;
  Announcer announcer_;
  TaskThread ends_;
  WorkQueue followers_;  // of structures
  std::thread thread_;
};

}  // namespace kvship
