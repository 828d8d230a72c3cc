// ConnectionThreads is a thread pool that runs each connection on its own thread. It creates
// threads on demand and reuses the most recently used first; a thread idle for a while ends, unless
// it is the last one: where the system has no thread left, connections take turns on those there
// are. Thread safe.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <list>
#include <mutex>
#include <thread>

#include "absl/time/time.h"

namespace kvship {

class ConnectionThreads {
 public:
  // Longer than a client's pauses between connections, yet a burst's threads end soon.
  static constexpr absl::Duration kIdleTime = absl::Seconds(5);

  explicit ConnectionThreads(size_t max_threads, absl::Duration idle_time = kIdleTime)
      : max_threads_(max_threads), idle_time_(idle_time) {}
  ~ConnectionThreads() { Stop(); }

  // Waits for a thread, and runs `serve` on it. Returns false, without running it, after Stop.
  bool Run(std::function<void()> serve);
  // Returns whether a caller waits in Run.
  bool crowded() const;
  // Returns when all running connections have ended.
  void Stop();

 private:
  struct Worker {
    std::thread thread;
    std::function<void()> serve;   // what to run next
    std::condition_variable wake;  // one per thread: a connection wakes no other
  };
  using Workers = std::list<Worker>;

  // Makes an idle thread; false if there may be no more, or the system has none left.
  bool AddThread();
  void Work(Workers::iterator self);

  const size_t max_threads_;
  const absl::Duration idle_time_;
  mutable std::mutex mutex_;
  std::condition_variable room_;       // for Run
  std::condition_variable all_ended_;  // for Stop
  Workers busy_;
  Workers idle_;       // most recently used at the end
  std::thread ended_;  // joined by the next thread to end, or by Stop
  bool crowded_ = false;
  bool stop_ = false;
};

}  // namespace kvship
