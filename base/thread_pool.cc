#include "base/thread_pool.h"

#include <algorithm>
#include <chrono>

namespace kvship {
namespace {

// Longer than the gap between two loops of a decode step, far shorter than anything a person would
// notice as load.
constexpr auto kSpin = std::chrono::microseconds(100);

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

ThreadPool::ThreadPool(size_t num_threads) {
  for (size_t i = 1; i < std::max<size_t>(num_threads, 1); ++i) {
    workers_.emplace_back([this, i] { Work(i); });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::ParallelFor(size_t num_tasks, const std::function<void(size_t)>& body) {
  ParallelForWithThread(num_tasks, [&body](size_t task, size_t) { body(task); });
}

void ThreadPool::ParallelForWithThread(size_t num_tasks,
                                       const std::function<void(size_t, size_t)>& body) {
  if (num_tasks == 0) return;
  loop_ = {&body, num_tasks};
  next_task_.store(0, std::memory_order_relaxed);
  if (num_tasks == 1 || workers_.empty()) {
    RunTasks(loop_, 0);
    return;
  }
  num_busy_.store(workers_.size(), std::memory_order_relaxed);
  // Sequentially consistent with a worker's announcement that it falls asleep: one of the two sees
  // the other.
  generation_.fetch_add(1, std::memory_order_seq_cst);
  if (num_asleep_.load(std::memory_order_seq_cst) > 0) {
    { std::lock_guard lock(mutex_); }
    wake_.notify_all();
  }
  RunTasks(loop_, 0);
  for (size_t spins = 0; num_busy_.load(std::memory_order_acquire) != 0; ++spins) {
    // A worker may be off its core: give the core up now and then rather than burn it.
    if (spins % 4096 == 4095) std::this_thread::yield();
    Pause();
  }
}

void ThreadPool::RunTasks(const Loop& loop, size_t thread) {
  for (;;) {
    const size_t task = next_task_.fetch_add(1, std::memory_order_relaxed);
    if (task >= loop.num_tasks) return;
    (*loop.body)(task, thread);
  }
}

void ThreadPool::Work(size_t thread) {
  uint64_t seen = 0;
  for (;;) {
    auto give_up = std::chrono::steady_clock::now() + kSpin;
    for (size_t spins = 0; generation_.load(std::memory_order_acquire) == seen; ++spins) {
      Pause();
      if (spins % 64 != 63 || std::chrono::steady_clock::now() < give_up) continue;
      std::unique_lock lock(mutex_);
      num_asleep_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_seq_cst) != seen; });
      num_asleep_.fetch_sub(1, std::memory_order_relaxed);
      break;
    }
    ++seen;
    if (stop_.load()) return;
    RunTasks(loop_, thread);
    num_busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace kvship
