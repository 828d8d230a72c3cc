// ConnectionThreads runs connections, each on a thread of its own. Threads are made as they are
// needed and used again. Thread safe.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace kvship {

class ConnectionThreads {
 public:
  explicit ConnectionThreads(size_t max_threads) : max_threads_(max_threads) {}
  ~ConnectionThreads() { Stop(); }

  // Runs `serve`, once fewer than `max_threads` are busy; false, and it is not run, after Stop and
  // where the system has no thread for it.
  bool Run(std::function<void()> serve);
  // Someone waits in Run, or was the last to come and got no thread.
  bool crowded() const;
  // Returns when all that runs has ended.
  void Stop();

 private:
  void Work();

  const size_t max_threads_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::thread> threads_;
  std::optional<std::function<void()>> next_;  // taken by the first thread that is free
  size_t num_busy_ = 0;
  bool crowded_ = false;
  bool stop_ = false;
};

}  // namespace kvship
