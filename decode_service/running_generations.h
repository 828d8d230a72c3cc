// RunningGenerations are one port's requests that are under way: it bounds them, waits for their
// end when the port drains, and ends those that take too long. Thread safe; outlives its places.
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
  // A request's place, which points to its generations once there are any; given back when the last
  // copy goes.
  using Place = std::shared_ptr<std::vector<std::weak_ptr<Generation>>>;

  static constexpr size_t kAnyNumber = ~size_t{0};
  explicit RunningGenerations(size_t most_requests = kAnyNumber) : most_requests_(most_requests) {}

  // A request's, from before it is read. Errors: RefusedWhileDraining; ResourceExhausted if there
  // are as many as may be.
  absl::StatusOr<Place> Take();
  // Makes a generation of the place known to EndAll, before it starts.
  void Enter(const Place& place, const std::shared_ptr<Generation>& generation);

  // No new ones from now on.
  void StartDraining();
  bool draining() const;
  // Waits until none is left; false if that takes longer.
  bool WaitUntilIdle(absl::Duration timeout);
  // Ends those that are there, and those whose generations are still to come, with `why`, soon.
  void EndAll(const absl::Status& why);

 private:
  const size_t most_requests_;
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  std::list<std::vector<std::weak_ptr<Generation>>> running_;
  bool draining_ = false;
  absl::Status why_ended_;  // of EndAll
};

}  // namespace kvship
