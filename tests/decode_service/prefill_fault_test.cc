#include "decode_service/prefill_fault.h"

#include <gtest/gtest.h>

#include "decode_service/rejection.h"
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

TEST(PrefillFault, ANodeThatLetsThisOneDoNothingIsLost) {
  for (const absl::Status& error : {absl::PermissionDeniedError("x"),
                                    absl::UnauthenticatedError("x"), absl::NotFoundError("x")}) {
    EXPECT_EQ(FaultOf(error), PrefillFault::kLost);
    EXPECT_EQ(ForCaller(error).code(), absl::StatusCode::kUnavailable);
  }
}

TEST(PrefillFault, AFullNodesErrorSaysThatPrefillNodesAreFull) {
  const absl::Status error =
      ForCaller(WithRetryDelay(absl::ResourceExhaustedError("x"), absl::Seconds(3)));
  EXPECT_EQ(error.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(error), kPrefillFull);
  EXPECT_EQ(RetryDelayOf(error), absl::Seconds(3));
}

TEST(PrefillFault, ADeadlineThatGrpcNoticesIsSaidLikeOneThatTheServerNotices) {
  EXPECT_EQ(ForCaller(absl::DeadlineExceededError("Deadline Exceeded")), DeadlinePassed());
}

TEST(PrefillFault, RoomThatWillComeIsToldBeforeWhatNeverFitsAndThatBeforeALostNode) {
  const absl::Status lost = absl::UnavailableError("connection refused");
  const absl::Status differs = WithReason(absl::FailedPreconditionError("x"), kModelMismatch);
  const absl::Status never = WithReason(absl::FailedPreconditionError("x"), kContextLengthExceeded);
  const absl::Status full = absl::ResourceExhaustedError("the queue is full");
  const absl::Status deadline = absl::DeadlineExceededError("too late");
  const absl::Status ascending[] = {absl::OkStatus(), lost, never, full, deadline};
  for (size_t less = 0; less < std::size(ascending); ++less) {
    for (size_t more = less + 1; more < std::size(ascending); ++more) {
      EXPECT_EQ(MoreTelling(ascending[more], ascending[less]), ascending[more]);
      EXPECT_EQ(MoreTelling(ascending[less], ascending[more]), ascending[more]);
    }
  }
  EXPECT_EQ(MoreTelling(lost, differs), differs);
  EXPECT_EQ(MoreTelling(differs, lost), lost);
}

}  // namespace
}  // namespace kvship
