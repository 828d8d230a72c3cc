#include "service/connection_threads.h"

#include <iterator>
#include <system_error>
#include <utility>

namespace kvship {

bool ConnectionThreads::Run(std::function<void()> serve) {
  std::unique_lock lock(mutex_);
  crowded_ = busy_.size() == max_threads_;
  room_.wait(lock, [this] { return stop_ || busy_.size() < max_threads_; });
  crowded_ = false;
  if (stop_) return false;
  if (!idle_.empty()) {
    Worker& worker = idle_.back();
    worker.serve = std::move(serve);
    worker.wake.notify_one();
    busy_.splice(busy_.end(), idle_, std::prev(idle_.end()));
    return true;
  }
  const auto worker = busy_.emplace(busy_.end());
  worker->serve = std::move(serve);
  try {
    worker->thread = std::thread([this, worker] { Work(worker); });
  } catch (const std::system_error&) {
    busy_.erase(worker);
    crowded_ = true;
    room_.notify_one();
    return false;
  }
  return true;
}

bool ConnectionThreads::crowded() const {
  std::lock_guard lock(mutex_);
  return crowded_;
}

void ConnectionThreads::Stop() {
  std::unique_lock lock(mutex_);
  stop_ = true;
  room_.notify_all();
  for (Worker& worker : idle_) worker.wake.notify_one();
  all_ended_.wait(lock, [this] { return busy_.empty() && idle_.empty(); });
  if (ended_.joinable()) ended_.join();  // needs no lock any more
}

void ConnectionThreads::Work(Workers::iterator self) {
  std::unique_lock lock(mutex_);
  while (self->serve) {
    {
      const std::function<void()> serve = std::exchange(self->serve, nullptr);
      lock.unlock();
      serve();
    }
    lock.lock();
    idle_.splice(idle_.end(), busy_, self);
    room_.notify_one();
    self->wake.wait_for(lock, absl::ToChronoNanoseconds(idle_time_),
                        [this, self] { return stop_ || self->serve; });
  }
  std::thread before = std::exchange(ended_, std::move(self->thread));
  idle_.erase(self);
  if (busy_.empty() && idle_.empty()) all_ended_.notify_all();
  lock.unlock();
  // Here, so that but one thread that has ended keeps its stack.
  if (before.joinable()) before.join();
}

}  // namespace kvship
