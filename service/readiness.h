// Readiness tells whether a server should get new requests: not before its model is loaded, not
// while it drains, and not while its worker thread is stuck. The admin port and gRPC's health
// service report it. Thread safe.
#pragma once

#include <functional>
#include <mutex>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvship {

// How long a server that has announced its shutdown still accepts requests: until clients, which
// poll readiness about twice a second, have noticed.
inline constexpr absl::Duration kDrainNotice = absl::Seconds(1);

class Readiness {
 public:
  // The model is loaded and the ports are open. `check` returns, from any thread and without
  // blocking, whether the work makes progress; Internal if it never will again.
  void StartServing(std::function<absl::Status()> check);

  // Never ready from now on.
  void StartDraining();

  // Returns OK, or the reason; Internal if only a restart helps.
  absl::Status Check() const;
  bool draining() const;

 private:
  enum class State { kStarting, kServing, kDraining };

  mutable std::mutex mutex_;
  State state_ = State::kStarting;
  std::function<absl::Status()> check_;
};

}  // namespace kvship
