// DeadlineWatch runs callbacks at deadlines of the monotonic clock. (gRPC's alarms wait by the wall
// clock and are late by as much as it is set back.) Thread safe; callbacks run one at a time on the
// watch's own thread and must not block.
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
  // Identifies a deadline.
  using Key = std::pair<absl::Time, uint64_t>;

  DeadlineWatch();
  // Drops all pending callbacks.
  ~DeadlineWatch();

  Key Add(absl::Time deadline, std::function<void()> on_due);
  // Drops a pending callback. One that is running runs to its end.
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
