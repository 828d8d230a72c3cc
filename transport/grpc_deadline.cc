#include "transport/grpc_deadline.h"

#include <cstdint>

#include "base/clock.h"

namespace kvship {

absl::Time FromGrpcDeadline(gpr_timespec deadline) {
  constexpr int64_t kMostSeconds = INT64_MAX / 1'000'000'000;  // of deadline()'s nanoseconds
  const gpr_timespec wall = gpr_convert_clock_type(deadline, GPR_CLOCK_REALTIME);
  if (wall.tv_sec >= kMostSeconds) return absl::InfiniteFuture();
  return FromWallTime(absl::FromUnixSeconds(wall.tv_sec) + absl::Nanoseconds(wall.tv_nsec));
}

}  // namespace kvship
