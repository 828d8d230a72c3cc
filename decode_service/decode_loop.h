// DecodeLoop runs the decode batch on a thread of its own: step after step, each session's next
// token goes through the network together with the others'. Sessions join, leave and are cancelled
// between two steps; one whose reader lags sits steps out. Thread safe.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/heartbeat.h"
#include "decode_service/decode_metrics.h"
#include "decode_service/session.h"
#include "engine/decoder.h"

namespace kvship {

class DecodeLoop {
 public:
  // Borrows both. Steps are computed on the loop's thread alone. A step takes at most
  // `max_batch_sessions`; where there are more, they take turns.
  DecodeLoop(Decoder& decoder, DecodeMetrics& metrics, size_t max_batch_sessions);
  // Ends the sessions still there with Unavailable.
  ~DecodeLoop();

  // Whether sessions with caches of this plan can join: as Decoder::CheckPlan.
  absl::Status CheckPlan(const KvPlan& plan) const { return decoder_.CheckPlan(plan); }

  // Takes over a session that has its first token and has not ended.
  void Join(std::unique_ptr<Session> session);

  // As Heartbeat::Check of the loop's thread. Never waits.
  absl::Status CheckProgress(absl::Duration most) const;

 private:
  using Sessions = std::vector<std::unique_ptr<Session>>;

  void Run();
  // Waits until there is something to do; false once the loop is to stop.
  bool TakeJoined();
  void Wake();
  // Ends those whose reader has gone, and forgets those that have ended.
  void SweepEnded();
  std::vector<Session*> NextBatch();
  void Step(const std::vector<Session*>& batch);
  // After a step that failed, and where there is none: caches whose bytes a lost device does not
  // take never come to a step.
  void WatchDevice();

  Decoder& decoder_;
  DecodeMetrics& metrics_;
  const size_t max_batch_sessions_;
  Sessions sessions_;  // of the loop's thread; who was served longest ago comes first
  bool idle_ = true;   // none of them can run; of the loop's thread

  Heartbeat heartbeat_;
  std::mutex mutex_;
  std::condition_variable wake_;
  Sessions joined_;
  bool woken_ = false;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace kvship
