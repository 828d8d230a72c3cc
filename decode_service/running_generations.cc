#include "decode_service/running_generations.h"

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "decode_service/rejection.h"
#include "rpc/errors.h"

namespace kvship {

absl::StatusOr<RunningGenerations::Place> RunningGenerations::Take() {
  std::unique_lock lock(mutex_);
  if (draining_) return RefusedWhileDraining();
  if (running_.size() >= most_requests_) {
    const absl::Status full = absl::ResourceExhaustedError(
        absl::StrCat(running_.size(), " requests are running; wanted fewer than ", most_requests_));
    return WithReason(full, kHttpFull);  // no other port has a bound
  }
  const auto at = running_.emplace(running_.end());
  lock.unlock();  // as in ClientRequests::Enter
  return Place(&*at, [this, at](std::vector<std::weak_ptr<Generation>>*) {
    std::lock_guard lock(mutex_);
    running_.erase(at);
    idle_.notify_all();
  });
}

void RunningGenerations::Enter(const Place& place, const std::shared_ptr<Generation>& generation) {
  absl::Status ended;
  {
    std::lock_guard lock(mutex_);
    place->push_back(generation);
    ended = why_ended_;
  }
  if (!ended.ok()) generation->Cancel(ended);
}

void RunningGenerations::StartDraining() {
  std::lock_guard lock(mutex_);
  draining_ = true;
}

bool RunningGenerations::draining() const {
  std::lock_guard lock(mutex_);
  return draining_;
}

bool RunningGenerations::WaitUntilIdle(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  return idle_.wait_until(lock, ToSteadyTime(MonotonicNow() + timeout),
                          [this] { return running_.empty(); });
}

void RunningGenerations::EndAll(const absl::Status& why) {
  std::vector<std::shared_ptr<Generation>> running;
  {
    std::lock_guard lock(mutex_);
    why_ended_.Update(why);
    for (const auto& request : running_) {
      for (const auto& generation : request) running.push_back(generation.lock());
    }
  }
  for (const auto& generation : running) {
    if (generation != nullptr) generation->Cancel(why);
  }
}

}  // namespace kvship
