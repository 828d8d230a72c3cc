// DeadlineWatch calls back when a time of the monotonic clock has come. gRPC's own alarms wait by
// the wall clock, and come late by as much as that is set back. Thread safe; callbacks come one at
// a time on its thread, and must not block.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/time/time.h"

namespace kvship {

class DeadlineWatch {
 public:
  // What a deadline is known by.
  using Key = std::pair<absl::Time, uint64_t>;

  DeadlineWatch();
  // What is not due yet is never called.
  ~DeadlineWatch();

  Key Add(absl::Time deadline, std::function<void()> on_due);
  // It is not called any more, unless it is being called just now.
  void Remove(const Key& key);

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<Key, std::function<void()>> waiting_;
  uint64_t next_number_ = 0;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace kvship
