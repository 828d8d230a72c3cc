#include "decode_service/work_queue.h"

#include "absl/strings/str_cat.h"
#include "base/start_thread.h"
#include "decode_service/rejection.h"
#include "rpc/errors.h"

namespace kvship {

WorkQueue::WorkQueue(size_t num_threads, size_t most_bytes) : most_bytes_(most_bytes) {
  while (threads_.size() < num_threads) {
    threads_.push_back(StartThread("work", [this] { Work(); }));
  }
}

WorkQueue::~WorkQueue() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

absl::StatusOr<size_t> WorkQueue::Enter(const std::string& client, size_t num_bytes, Task task) {
  std::lock_guard lock(mutex_);
  if (!waiting_.empty() && waiting_bytes_ + num_bytes > most_bytes_) {
    return WithRetryDelay(
        absl::ResourceExhaustedError(absl::StrCat(
            "requests of ", waiting_bytes_, " bytes wait to be looked at, and this one has ",
            num_bytes, "; this server keeps at most ", most_bytes_)),
        kRetryDelay);
  }
  waiting_.emplace(std::pair(client, next_place_), Waiting{std::move(task), num_bytes});
  waiting_bytes_ += num_bytes;
  wake_.notify_one();
  return next_place_++;
}

bool WorkQueue::Leave(const std::string& client, size_t place) {
  Task forgotten;  // destroyed without the lock: it may own anything
  std::lock_guard lock(mutex_);
  const auto which = waiting_.find({client, place});
  if (which == waiting_.end()) return false;
  forgotten = Take(which);
  return true;
}

WorkQueue::Task WorkQueue::Take(Queue::iterator which) {
  waiting_bytes_ -= which->second.num_bytes;
  auto taken = waiting_.extract(which);
  return std::move(taken.mapped().task);
}

void WorkQueue::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    auto next = waiting_.upper_bound({last_, SIZE_MAX});
    if (next == waiting_.end()) next = waiting_.begin();
    last_ = next->first.first;
    Task task = Take(next);
    lock.unlock();
    task();
    task = nullptr;  // what it holds goes without the lock
    lock.lock();
  }
}

}  // namespace kvship
