#include "client/retry.h"

#include <algorithm>

#include "base/clock.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

constexpr absl::Duration kLongestDelay = absl::Seconds(5);
// Where a server that has no room names no time.
constexpr absl::Duration kRoomDelay = absl::Seconds(1);

}  // namespace

std::optional<absl::Duration> Attempts::DelayAfter(const absl::Status& error) {
  const bool no_room = absl::IsResourceExhausted(error);
  if (retries_left_ == 0 || !(no_room || absl::IsUnavailable(error))) return std::nullopt;
  --retries_left_;
  // Random, so that clients who lost the same server, or were refused together, do not come back at
  // once.
  std::uniform_real_distribution<> part(0.5, 1.0);
  // Never sooner than the server asked.
  std::uniform_real_distribution<> times(1.0, 1.5);
  const absl::Duration delay =
      no_room ? RetryDelayOf(error).value_or(kRoomDelay) * times(random_) : delay_ * part(random_);
  delay_ = std::min(2 * delay_, kLongestDelay);
  if (MonotonicNow() + delay >= deadline_) return std::nullopt;
  return delay;
}

}  // namespace kvship
