// CompileQueue compiles structures on a thread of its own, one at a time. Clients take turns, so
// that the heavy schemas of one hold up each other client by one of them at most; what one client
// waits for is compiled in the order of its arrival. Thread safe.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "base/task_thread.h"

namespace kvship {

class CompileQueue {
 public:
  using Task = std::function<void()>;

  // Runs `task` when its turn comes, at the latest when the queue is destroyed. Returns its place,
  // for Leave. All tasks without a client name count as one client's.
  size_t Enter(const std::string& client, Task task);

  // Drops a task; false if its turn has come: it is running or has run.
  bool Leave(const std::string& client, size_t place);

 private:
  Task TakeNext();

  std::mutex mutex_;
  size_t next_place_ = 0;
  std::map<std::pair<std::string, size_t>, Task> waiting_;  // by client and place
  std::string last_;                                        // the client whose turn came last
  TaskThread thread_;  // has a turn for each that waits; stops before the rest is destroyed
};

}  // namespace kvship
