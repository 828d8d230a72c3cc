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
  // Never sooner than the server asked.
  const absl::Duration least = no_room ? RetryDelayOf(error).value_or(kRoomDelay) : delay_ / 2;
  const absl::Duration most = no_room ? 1.5 * least : delay_;
  delay_ = std::min(2 * delay_, kLongestDelay);
  const absl::Duration left = deadline_ - MonotonicNow();
  if (least >= left) return std::nullopt;
  // Random, so that clients who lost the same server, or were refused together, do not come back at
  // once.
  return least + (std::min(most, left) - least) * std::uniform_real_distribution<>()(random_);
}

}  // namespace kvship
