#include "service/connection_threads.h"

#include <exception>
#include <iterator>
#include <utility>

namespace kvship {
namespace {

// How soon it is seen that the system has threads again.
constexpr absl::Duration kRetryPause = absl::Milliseconds(100);

}  // namespace

bool ConnectionThreads::AddThread() {
  if (busy_.size() == max_threads_) return false;
  Workers made;
  try {
    made.emplace_back();
    made.back().thread = std::thread([this, worker = made.begin()] { Work(worker); });
  } catch (const std::exception&) {  // for want of a thread or of memory
    return false;
  }
  idle_.splice(idle_.end(), made);
  return true;
}

bool ConnectionThreads::Run(std::function<void()> serve) {
  std::unique_lock lock(mutex_);
  while (!stop_ && idle_.empty() && !AddThread()) {
    crowded_ = true;
    room_.wait_for(lock, absl::ToChronoNanoseconds(kRetryPause));
  }
  crowded_ = false;
  if (stop_) return false;
  Worker& worker = idle_.back();
  worker.serve = std::move(serve);
  worker.wake.notify_one();
  busy_.splice(busy_.end(), idle_, std::prev(idle_.end()));
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
    const auto is_wanted = [this, self] { return stop_ || self->serve; };
    if (!self->wake.wait_for(lock, absl::ToChronoNanoseconds(idle_time_), is_wanted) &&
        busy_.size() + idle_.size() == 1) {
      self->wake.wait(lock, is_wanted);
    }
  }
  std::thread before = std::exchange(ended_, std::move(self->thread));
  idle_.erase(self);
  if (busy_.empty() && idle_.empty()) all_ended_.notify_all();
  lock.unlock();
  // Here, so that but one thread that has ended keeps its stack.
  if (before.joinable()) before.join();
}

}  // namespace kvship
