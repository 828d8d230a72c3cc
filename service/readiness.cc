#include "service/readiness.h"

#include <utility>

namespace kvship {

void Readiness::StartServing(std::function<absl::Status()> check) {
  std::lock_guard lock(mutex_);
  if (state_ != State::kStarting) return;
  state_ = State::kServing;
  check_ = std::move(check);
}

void Readiness::StartDraining() {
  std::lock_guard lock(mutex_);
  state_ = State::kDraining;
  check_ = nullptr;  // what it looks at may be gone before the last question comes
}

absl::Status Readiness::Check() const {
  std::lock_guard lock(mutex_);
  switch (state_) {
    case State::kStarting: return absl::UnavailableError("the server is starting");
    case State::kDraining: return absl::UnavailableError("the server is shutting down");
    case State::kServing: return check_();
  }
  return absl::OkStatus();
}

bool Readiness::draining() const {
  std::lock_guard lock(mutex_);
  return state_ == State::kDraining;
}

}  // namespace kvship
