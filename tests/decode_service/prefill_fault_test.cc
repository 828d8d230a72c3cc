#include "decode_service/prefill_fault.h"

#include <gtest/gtest.h>

#include "rpc/errors.h"

namespace kvship {
namespace {

TEST(PrefillFault, NodesThatDifferAreUnavailableToTheCaller) {
  for (const char* reason : {kModelMismatch, kWireVersionMismatch, kPlanMismatch}) {
    const absl::Status error = WithReason(absl::FailedPreconditionError("x"), reason);
    EXPECT_EQ(ForCaller(error).code(), absl::StatusCode::kUnavailable) << reason;
  }
}

TEST(PrefillFault, ARequestThatAsksForTooMuchIsToldSo) {
  for (const char* reason : {kContextLengthExceeded, kDeviceMismatch}) {
    const absl::Status error = WithReason(absl::FailedPreconditionError("x"), reason);
    EXPECT_EQ(ForCaller(error), error);
  }
}

TEST(PrefillFault, ADeadlineThatGrpcNoticesIsSaidLikeOneThatTheServerNotices) {
  EXPECT_EQ(ForCaller(absl::DeadlineExceededError("Deadline Exceeded")), DeadlinePassed());
}

}  // namespace
}  // namespace kvship
