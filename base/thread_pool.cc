#include "base/thread_pool.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <utility>

namespace kvship {
namespace {

// Longer than the gap between two loops of a decode step, far shorter than anything a person would
// notice as load.
constexpr auto kSpin = std::chrono::microseconds(100);

constexpr uint64_t kTasksMask = 0xffffffffu;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

ThreadPool::ThreadPool(size_t num_threads) {
  try {
    for (size_t i = 1; i < std::max<size_t>(num_threads, 1); ++i) {
      workers_.emplace_back([this, i] { Work(i); });
    }
  } catch (...) {
    Stop();  // those that there are
    throw;
  }
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
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
  assert(num_tasks <= kTasksMask);
  if (num_tasks == 1 || workers_.empty()) {
    for (size_t task = 0; task < num_tasks; ++task) body(task, 0);
    return;
  }
  body_ = &body;
  num_tasks_ = num_tasks;
  num_done_.store(0, std::memory_order_relaxed);
  const uint64_t last = unclaimed_.load(std::memory_order_relaxed) & ~kTasksMask;
  // Sequentially consistent with a worker's announcement that it falls asleep: one of the two sees
  // the other.
  unclaimed_.store(last + kTasksMask + 1 + num_tasks, std::memory_order_seq_cst);
  if (num_asleep_.load(std::memory_order_seq_cst) > 0) {
    { std::lock_guard lock(mutex_); }
    wake_.notify_all();
  }
  RunTasks(0);
  for (size_t spins = 0; num_done_.load(std::memory_order_acquire) != num_tasks; ++spins) {
    // A worker may be off its core: give the core up now and then rather than burn it.
    if (spins % 4096 == 4095) std::this_thread::yield();
    Pause();
  }
  if (exception_) std::rethrow_exception(std::exchange(exception_, nullptr));
}

bool ThreadPool::HasTasks() const {
  return (unclaimed_.load(std::memory_order_seq_cst) & kTasksMask) != 0;
}

bool ThreadPool::ClaimTask(size_t* task) {
  uint64_t unclaimed = unclaimed_.load(std::memory_order_acquire);
  while ((unclaimed & kTasksMask) != 0) {
    if (unclaimed_.compare_exchange_weak(unclaimed, unclaimed - 1, std::memory_order_acq_rel,
                                         std::memory_order_acquire)) {
      *task = num_tasks_ - (unclaimed & kTasksMask);
      return true;
    }
  }
  return false;
}

void ThreadPool::RunTasks(size_t thread) {
  size_t task;
  while (ClaimTask(&task)) {
    try {
      (*body_)(task, thread);
    } catch (...) {
      EndLoop(std::current_exception());
    }
    num_done_.fetch_add(1, std::memory_order_release);
  }
}

// The loop's caller cannot go on meanwhile: it waits for the task that has thrown.
void ThreadPool::EndLoop(std::exception_ptr exception) {
  {
    std::lock_guard lock(mutex_);
    if (!exception_) exception_ = std::move(exception);
  }
  const uint64_t unclaimed = unclaimed_.fetch_and(~kTasksMask, std::memory_order_acq_rel);
  num_done_.fetch_add(unclaimed & kTasksMask, std::memory_order_release);
}

void ThreadPool::Work(size_t thread) {
  for (;;) {
    const auto give_up = std::chrono::steady_clock::now() + kSpin;
    for (size_t spins = 0; !HasTasks() && !stop_.load(); ++spins) {
      Pause();
      if (spins % 64 != 63 || std::chrono::steady_clock::now() < give_up) continue;
      std::unique_lock lock(mutex_);
      num_asleep_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [&] { return HasTasks() || stop_.load(); });
      num_asleep_.fetch_sub(1, std::memory_order_relaxed);
      break;
    }
    if (stop_.load()) return;
    RunTasks(thread);
  }
}

}  // namespace kvship
