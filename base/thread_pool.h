// ThreadPool runs one loop at a time on a fixed team of threads, the caller among them. Decode has
// hundreds of loops per token, each of some microseconds, so a thread that finds no work spins for
// a while before it sleeps.
//
// ParallelFor may be called by one thread at a time; a loop body may not call it again.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace kvship {

class ThreadPool {
 public:
  // `num_threads` in all, the calling thread included; at least 1.
  explicit ThreadPool(size_t num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  size_t num_threads() const { return workers_.size() + 1; }

  // Calls body(i) for each i in [0, num_tasks) and returns when all have returned. Tasks are handed
  // out one by one, in order; which thread runs which task is not fixed, so a body's result must
  // not depend on it.
  void ParallelFor(size_t num_tasks, const std::function<void(size_t task)>& body);

  // The same, with the number of the thread in [0, num_threads()), for scratch memory per thread.
  void ParallelForWithThread(size_t num_tasks,
                             const std::function<void(size_t task, size_t thread)>& body);

 private:
  struct Loop {
    const std::function<void(size_t, size_t)>* body = nullptr;
    size_t num_tasks = 0;
  };
  void Work(size_t thread);
  void RunTasks(const Loop& loop, size_t thread);

  Loop loop_;
  alignas(64) std::atomic<uint64_t> generation_{0};
  alignas(64) std::atomic<size_t> next_task_{0};
  alignas(64) std::atomic<size_t> num_busy_{0};
  std::atomic<bool> stop_{false};
  std::atomic<size_t> num_asleep_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace kvship
