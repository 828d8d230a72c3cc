#include "decode_service/grammar/compile_queue.h"

#include <cstdint>

namespace kvship {

size_t CompileQueue::Enter(const std::string& client, Task task) {
  std::lock_guard lock(mutex_);
  // First, as either may fail: a turn that nobody takes does no harm.
  thread_.Run([this] {
    if (const Task next = TakeNext(); next != nullptr) next();
  });
  waiting_.emplace(std::pair(client, next_place_), std::move(task));
  return next_place_++;
}

bool CompileQueue::Leave(const std::string& client, size_t place) {
  decltype(waiting_)::node_type forgotten;  // destroyed without the lock: it may own anything
  std::lock_guard lock(mutex_);
  forgotten = waiting_.extract({client, place});
  return !forgotten.empty();
}

CompileQueue::Task CompileQueue::TakeNext() {
  std::lock_guard lock(mutex_);
  if (waiting_.empty()) return nullptr;
  auto next = waiting_.upper_bound({last_, SIZE_MAX});
  if (next == waiting_.end()) next = waiting_.begin();
  auto taken = waiting_.extract(next);
  last_ = std::move(taken.key().first);
  return std::move(taken.mapped());
}

}  // namespace kvship
