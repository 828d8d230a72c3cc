// WorkQueue runs work that takes long on threads of its own, so that it holds up none of gRPC's.
// Clients take turns: the heavy work of one holds up each other client by one piece of it at most.
// What one client waits for is run in the order of its arrival. Thread safe.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace kvship {

class WorkQueue {
 public:
  using Task = std::function<void()>;

  // With so many threads, and tasks of so many bytes that wait at a time.
  WorkQueue(size_t num_threads, size_t most_bytes);
  // Runs the remaining tasks first.
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // Runs `task`, which holds `num_bytes` until then, when its turn comes. Returns its place, for
  // Leave. ResourceExhausted if too much waits; one task may always wait. All tasks without a
  // client name count as one client's.
  absl::StatusOr<size_t> Enter(const std::string& client, size_t num_bytes, Task task);

  // Drops a task; false if its turn has come: it is running or has run.
  bool Leave(const std::string& client, size_t place);

 private:
  struct Waiting {
    Task task;
    size_t num_bytes;
  };
  using Queue = std::map<std::pair<std::string, size_t>, Waiting>;  // by client and place

  void Work();
  // Takes one out of the queue. mutex_ is held.
  Task Take(Queue::iterator which);

  const size_t most_bytes_;
  std::mutex mutex_;
  std::condition_variable wake_;
  size_t next_place_ = 0;
  size_t waiting_bytes_ = 0;
  Queue waiting_;
  std::string last_;  // the client whose turn came last
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace kvship
