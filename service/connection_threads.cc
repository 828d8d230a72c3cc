#include "service/connection_threads.h"

#include <system_error>
#include <utility>

namespace kvship {

bool ConnectionThreads::Run(std::function<void()> serve) {
  std::unique_lock lock(mutex_);
  crowded_ = num_busy_ == max_threads_;
  changed_.wait(lock, [this] { return stop_ || (num_busy_ < max_threads_ && !next_); });
  crowded_ = false;
  if (stop_) return false;
  if (threads_.size() == num_busy_) {
    try {
      threads_.emplace_back([this] { Work(); });
    } catch (const std::system_error&) {
      crowded_ = true;
      return false;
    }
  }
  ++num_busy_;
  next_ = std::move(serve);
  changed_.notify_all();
  changed_.wait(lock, [this] { return !next_; });
  return true;
}

bool ConnectionThreads::crowded() const {
  std::lock_guard lock(mutex_);
  return crowded_;
}

void ConnectionThreads::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void ConnectionThreads::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || next_; });
    if (!next_) return;
    const std::function<void()> serve = *std::exchange(next_, std::nullopt);
    changed_.notify_all();
    lock.unlock();
    serve();
    lock.lock();
    --num_busy_;
    changed_.notify_all();
  }
}

}  // namespace kvship
