// RunningGenerations tracks one port's requests in progress: it limits their number, waits for
// their end when the port drains, and ends those that take too long. Thread safe; must outlive its
// places.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "decode_service/generation.h"

namespace kvship {

class RunningGenerations {
 public:
  // A request's slot, which points to its generations once they exist; returned when the last copy
  // is destroyed.
  using Place = std::shared_ptr<std::vector<std::weak_ptr<Generation>>>;

  static constexpr size_t kAnyNumber = ~size_t{0};
  explicit RunningGenerations(size_t most_requests = kAnyNumber) : most_requests_(most_requests) {}

  // Takes a slot, before the request is read. Errors: RefusedWhileDraining; ResourceExhausted if
  // all slots are taken.
  absl::StatusOr<Place> Take();
  // Registers a generation of the slot for EndAll, before it starts.
  void Enter(const Place& place, const std::shared_ptr<Generation>& generation);

  // Refuses new requests from now on.
  void StartDraining();
  bool draining() const;
  // Waits until no request is left; false on timeout.
  bool WaitUntilIdle(absl::Duration timeout);
  // Ends all requests, and those whose generations are not registered yet, with `why`.
  // Asynchronous.
  void EndAll(const absl::Status& why);

 private:
  const size_t most_requests_;
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  std::list<std::vector<std::weak_ptr<Generation>>> running_;
  bool draining_ = false;
  absl::Status why_ended_;  // set by EndAll
};

}  // namespace kvship
