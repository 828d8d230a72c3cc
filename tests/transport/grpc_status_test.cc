#include "transport/grpc_status.h"

#include <gtest/gtest.h>

#include "absl/strings/cord.h"

namespace kvship {
namespace {

TEST(GrpcStatus, CodesMessagesAndDetailsSurviveTheWay) {
  absl::Status status = absl::ResourceExhaustedError("the queue is full");
  status.SetPayload("type.googleapis.com/google.rpc.RetryInfo", absl::Cord("\x0a\x02\x08\x03"));
  status.SetPayload("type.googleapis.com/example.Other", absl::Cord(std::string("\0\xff", 2)));
  EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status);
}

TEST(GrpcStatus, AnErrorWithoutPayloadsHasDetailsTooThatSayNoMore) {
  const absl::Status status = absl::UnavailableError("shutting down");
  EXPECT_FALSE(ToGrpcStatus(status).error_details().empty());
  EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status);
}

TEST(GrpcStatus, OkIsOk) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST(GrpcStatus, DetailsThatCannotBeReadAreLeftOut) {
  const grpc::Status status(grpc::StatusCode::INTERNAL, "broken", "\xff\xff\xff");
  EXPECT_EQ(FromGrpcStatus(status), absl::InternalError("broken"));
}

TEST(GrpcStatus, ALongMessageIsCutToFitATrailerAtACharacter) {
  const grpc::Status status = ToGrpcStatus(absl::InternalError(std::string(100000, 'x')));
  EXPECT_EQ(status.error_message().size(), 1024u);
  std::string text = "x";
  for (int i = 0; i < 1000; ++i) text += "\xc3\xbc";
  absl::Status error = absl::InternalError(text);
  error.SetPayload("type", absl::Cord("detail"));
  EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(error)).message(), text.substr(0, 1023));
  EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(error)).GetPayload("type"), absl::Cord("detail"));
}

}  // namespace
}  // namespace kvship
