#include "base/deadline_watch.h"

#include "base/clock.h"
#include "base/start_thread.h"

namespace kvship {

DeadlineWatch::DeadlineWatch() : thread_(StartThread("deadlines", [this] { Run(); })) {}

DeadlineWatch::~DeadlineWatch() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

DeadlineWatch::Key DeadlineWatch::Add(absl::Time deadline, std::function<void()> on_due) {
  std::lock_guard lock(mutex_);
  const Key key = {deadline, next_number_++};
  const auto at = waiting_.emplace(key, std::move(on_due)).first;
  if (at == waiting_.begin()) changed_.notify_one();
  return key;
}

void DeadlineWatch::Remove(const Key& key) {
  std::function<void()> removed;  // destroyed without the lock: it may own anything
  std::lock_guard lock(mutex_);
  const auto at = waiting_.find(key);
  if (at == waiting_.end()) return;
  removed = std::move(at->second);
  waiting_.erase(at);
}

void DeadlineWatch::Run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (waiting_.empty()) {
      changed_.wait(lock);
    } else if (const auto first = waiting_.begin(); first->first.first > MonotonicNow()) {
      changed_.wait_until(lock, ToSteadyTime(first->first.first));
    } else {
      std::function<void()> on_due = std::move(first->second);
      waiting_.erase(first);
      lock.unlock();
      on_due();
      on_due = nullptr;
      lock.lock();
    }
  }
}

}  // namespace kvship
