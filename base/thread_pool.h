// ThreadPool runs one loop at a time on a fixed team of threads, the caller among them. Decode has
// hundreds of loops per token, each of some microseconds, so a thread that finds no work spins for
// a while before it sleeps.
//
// ParallelFor may be called by one thread at a time; a loop body may not call it again.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace kvship {

// `asked`, or one per processor where that is 0.
inline size_t NumThreads(size_t asked) {
  return asked > 0 ? asked : std::max(1u, std::thread::hardware_concurrency());
}

class ThreadPool {
 public:
  // `num_threads` in all, the calling thread included; at least 1. Throws std::system_error where
  // the system has not as many.
  explicit ThreadPool(size_t num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  size_t num_threads() const { return workers_.size() + 1; }

  // Calls body(i) for each i in [0, num_tasks) and returns when all have returned. Tasks are handed
  // out one by one, in order; which thread runs which task is not fixed, so a body's result must
  // not depend on it. An exception that leaves a body, as where memory is short, ends the loop: no
  // further task begins, and once those that have begun are through it is thrown here (of several,
  // one).
  void ParallelFor(size_t num_tasks, const std::function<void(size_t task)>& body);

  // The same, with the number of the thread in [0, num_threads()), for scratch memory per thread.
  void ParallelForWithThread(size_t num_tasks,
                             const std::function<void(size_t task, size_t thread)>& body);

 private:
  void Stop();
  void Work(size_t thread);
  bool ClaimTask(size_t* task);
  void RunTasks(size_t thread);
  // Keeps the exception for the loop's caller. Tasks that nobody has claimed count as done.
  void EndLoop(std::exception_ptr exception);
  bool HasTasks() const;

  // The loop that runs. Written while no task of it can be claimed, read by who has claimed one.
  const std::function<void(size_t, size_t)>* body_ = nullptr;
  size_t num_tasks_ = 0;
  // Loop number (high half) and tasks not yet claimed (low half). A thread that comes late finds
  // nothing to claim and is waited for by nobody: under load it may be off its core for
  // milliseconds.
  alignas(64) std::atomic<uint64_t> unclaimed_{0};
  alignas(64) std::atomic<size_t> num_done_{0};
  std::atomic<bool> stop_{false};
  std::atomic<size_t> num_asleep_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::exception_ptr exception_;  // of the loop that runs; read when all its tasks are done
  std::vector<std::thread> workers_;
};

}  // namespace kvship
