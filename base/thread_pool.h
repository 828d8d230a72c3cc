// ThreadPool runs one loop at a time on a fixed number of threads, the caller included. Decode has
// hundreds of loops per token, each of some microseconds, so an idle thread spins for a while
// before it sleeps.
//
// ParallelFor may be called by one thread at a time; a loop body must not call it.
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

// `asked`, or one per processor if that is 0.
inline size_t NumThreads(size_t asked) {
  return asked > 0 ? asked : std::max(1u, std::thread::hardware_concurrency());
}

class ThreadPool {
 public:
  // `num_threads` includes the calling thread; at least 1. Throws std::system_error if the system
  // has too few.
  explicit ThreadPool(size_t num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  size_t num_threads() const { return workers_.size() + 1; }

  // Calls body(i) for each i in [0, num_tasks) and returns when all calls have returned. Tasks are
  // handed out one by one, in order; which thread runs which task is not fixed, so a body's result
  // must not depend on it. An exception that leaves a body (out of memory, for example) ends the
  // loop: no further task begins, and when all running tasks have ended it is rethrown here (one of
  // several).
  void ParallelFor(size_t num_tasks, const std::function<void(size_t task)>& body);

  // As ParallelFor, with the thread's number in [0, num_threads()), for scratch memory per thread.
  void ParallelForWithThread(size_t num_tasks,
                             const std::function<void(size_t task, size_t thread)>& body);

 private:
  void Stop();
  void Work(size_t thread);
  bool ClaimTask(size_t* task);
  void RunTasks(size_t thread);
  // Keeps the exception for the loop's caller. Unclaimed tasks count as done.
  void EndLoop(std::exception_ptr exception);
  bool HasTasks() const;

  // The running loop. Written while none of its tasks can be claimed, read by those that claimed
  // one.
  const std::function<void(size_t, size_t)>* body_ = nullptr;
  size_t num_tasks_ = 0;
  // Loop number (high half) and tasks not yet claimed (low half). A late thread finds nothing to
  // claim, and nobody waits for it: under load it may be off its core for milliseconds.
  alignas(64) std::atomic<uint64_t> unclaimed_{0};
  alignas(64) std::atomic<size_t> num_done_{0};
  std::atomic<bool> stop_{false};
  std::atomic<size_t> num_asleep_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::exception_ptr exception_;  // of the running loop; read when all its tasks are done
  std::vector<std::thread> workers_;
};

}  // namespace kvship
