// Readiness says whether a server should get new requests: not before its model is loaded, not
// while it is draining, and not while the thread that does the work is stuck. The admin port and
// gRPC's health service both tell what it tells. Thread safe.
#pragma once

#include <functional>
#include <mutex>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvship {

// How long a server that shuts down, and says so, still takes new requests: until those who ask
// for its readiness, twice a second or so, have seen it and send none.
inline constexpr absl::Duration kDrainNotice = absl::Seconds(1);

class Readiness {
 public:
  // The model is loaded and the ports are open. `check` says, from any thread and at once, whether
  // the work still makes progress; Internal if it never will.
  void StartServing(std::function<absl::Status()> check);

  // From now on never ready again.
  void StartDraining();

  // OK, or the reason; Internal if only a new process helps.
  absl::Status Check() const;
  bool draining() const;

 private:
  enum class State { kStarting, kServing, kDraining };

  mutable std::mutex mutex_;
  State state_ = State::kStarting;
  std::function<absl::Status()> check_;
};

}  // namespace kvship
