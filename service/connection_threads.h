// ConnectionThreads runs connections, each on a thread of its own. Threads are made as they are
// needed and used again, those first that were used last; one that is not used for a while ends.
// Thread safe.
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
  // Longer than pauses between a client's connections are; a burst's threads are soon gone.
  static constexpr absl::Duration kIdleTime = absl::Seconds(5);

  explicit ConnectionThreads(size_t max_threads, absl::Duration idle_time = kIdleTime)
      : max_threads_(max_threads), idle_time_(idle_time) {}
  ~ConnectionThreads() { Stop(); }

  // Runs `serve`, once fewer than `max_threads` are busy; false, and it is not run, after Stop and
  // where the system has no thread for it.
  bool Run(std::function<void()> serve);
  // Someone waits in Run, or was the last to come and got no thread.
  bool crowded() const;
  // Returns when all that runs has ended.
  void Stop();

 private:
  struct Worker {
    std::thread thread;
    std::function<void()> serve;   // what to run next
    std::condition_variable wake;  // its own: a connection wakes no other thread
  };
  using Workers = std::list<Worker>;

  void Work(Workers::iterator self);

  const size_t max_threads_;
  const absl::Duration idle_time_;
  mutable std::mutex mutex_;
  std::condition_variable room_;       // for Run
  std::condition_variable all_ended_;  // for Stop
  Workers busy_;
  Workers idle_;       // the one used last at the end
  std::thread ended_;  // joined by the next to end, or by Stop
  bool crowded_ = false;
  bool stop_ = false;
};

}  // namespace kvship
