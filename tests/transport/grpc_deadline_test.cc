#include "transport/grpc_deadline.h"

#include <gtest/gtest.h>

#include "base/clock.h"

namespace kvship {
namespace {

gpr_timespec After(int64_t seconds, gpr_clock_type clock) {
  return gpr_time_add(gpr_now(clock), gpr_time_from_seconds(seconds, GPR_TIMESPAN));
}

TEST(GrpcDeadlineTest, IsTheMonotonicTimeWhateverItsClock) {
  for (const gpr_clock_type clock : {GPR_CLOCK_REALTIME, GPR_CLOCK_MONOTONIC}) {
    const absl::Time before = MonotonicNow();
    const absl::Time deadline = FromGrpcDeadline(After(3600, clock));
    EXPECT_GE(deadline, before + absl::Hours(1) - absl::Seconds(1));
    EXPECT_LE(deadline, MonotonicNow() + absl::Hours(1) + absl::Seconds(1));
    EXPECT_LT(FromGrpcDeadline(After(-1, clock)), MonotonicNow());
  }
}

TEST(GrpcDeadlineTest, IsNoneWhereItIsTooFar) {
  constexpr int64_t kOfGo = int64_t{2562047} * 3600;
  for (const gpr_clock_type clock : {GPR_CLOCK_REALTIME, GPR_CLOCK_MONOTONIC}) {
    EXPECT_EQ(FromGrpcDeadline(gpr_inf_future(clock)), absl::InfiniteFuture());
    EXPECT_EQ(FromGrpcDeadline(After(kOfGo, clock)), absl::InfiniteFuture());
    EXPECT_LT(FromGrpcDeadline(After(kOfGo / 2, clock)), absl::InfiniteFuture());
  }
}

}  // namespace
}  // namespace kvship
