// Bounds of a connection: what it may bring with a call, and how many calls at a time. And the
// bound of a request, which GetModelInfo tells.
#include <gmock/gmock.h>
#include <grpcpp/channel.h>
#include <gtest/gtest.h>

#include <iostream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "client/generation_client.h"
#include "rpc/errors.h"
#include "tests/e2e/stream.h"
#include "tests/e2e/tiny_request.h"
#include "transport/grpc_status.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

constexpr char kModel[] = KVSHIP_GOLDENS "/models/llama";

absl::Status AskWithMetadata(const Server& decode, size_t num_bytes) {
  const auto stub = v1::GenerationService::NewStub(Stream::Connect(decode));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(WallNow() + absl::Seconds(30)));
  context.AddMetadata("x-filler", std::string(num_bytes, 'x'));
  v1::GenerationServiceGetModelInfoResponse response;
  return FromGrpcStatus(stub->GetModelInfo(&context, {}, &response));
}

TEST(LimitsTest, MoreThan8KiBOfMetadataAreRefusedAndTheServersLiveOn) {
  Server prefill("kvship-prefill", kModel, {"--threads=1"});
  Server decode("kvship-decode", kModel,
                {"--threads=1", absl::StrCat("--prefill=", prefill.address())});
  ASSERT_TRUE(prefill.WaitUntilReady() && decode.WaitUntilReady());
  for (const Server* server : {&decode, &prefill}) {
    const absl::Status refused = AskWithMetadata(*server, 9 << 10);
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
    std::cout << "9 KiB of metadata: " << refused << std::endl;
  }
  EXPECT_EQ(AskWithMetadata(decode, 7 << 10), absl::OkStatus());
  EXPECT_EQ(Stream(decode, TinyRequest(50, 5)).WaitForEnd(), absl::OkStatus());
}

TEST(LimitsTest, AStreamMoreThanAConnectionMayHaveWaitsAndIsServed) {
  Server prefill("kvship-prefill", kModel, {"--threads=1"});
  Server decode("kvship-decode", kModel,
                {"--threads=1", absl::StrCat("--prefill=", prefill.address()), "--max_streams=2",
                 "--max_unread_tokens=4"});
  ASSERT_TRUE(prefill.WaitUntilReady() && decode.WaitUntilReady());
  const auto channel = Stream::Connect(decode);
  v1::GenerateRequest endless = TinyRequest(20, 2000);
  endless.set_logprobs(20);  // much to be read
  std::optional<Stream> first(std::in_place, decode, endless,
                              Stream::Options{.reads = false, .channel = channel});
  const Stream second(decode, endless, {.reads = false, .channel = channel});
  const auto num_sessions = [&decode] { return decode.metric("kvship_decode_sessions"); };
  ASSERT_TRUE(Eventually([&] { return num_sessions() == 2; }));
  Stream third(decode, TinyRequest(50, 5), {.channel = channel});
  EXPECT_EQ(Stream(decode, TinyRequest(50, 5)).WaitForEnd(), absl::OkStatus())
      << "another connection has streams of its own";
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_FALSE(third.has_ended());
  EXPECT_EQ(num_sessions(), 2);
  const absl::Time freed = MonotonicNow();
  first.reset();
  EXPECT_EQ(third.WaitForEnd(), absl::OkStatus());
  std::cout << absl::StrFormat(
      "a third stream where --max_streams=2 waited %.0f ms, and was answered %.0f ms after one of "
      "the two had gone\n",
      absl::ToDoubleMilliseconds(third.first_token()),
      absl::ToDoubleMilliseconds(MonotonicNow() - freed));
}

TEST(LimitsTest, TheContextThatIsToldIsTheOneThatRequestsMayTake) {
  Server decode("kvship-decode", kModel, {"--threads=1", "--max_context_tokens=64"});
  GenerationClient client(decode.address());
  absl::StatusOr<v1::ModelInfo> info;
  ASSERT_TRUE(Eventually([&] { return (info = client.GetModelInfo(absl::Seconds(1))).ok(); }))
      << info.status();
  EXPECT_EQ(info->context_tokens(), 64u);
  EXPECT_THAT(HttpGet(decode.admin_port, "/status.json"), HasSubstr("\"context_tokens\":64,"));
  EXPECT_EQ(ReasonOf(Stream(decode, TinyRequest(60, 5)).WaitForEnd()), kContextLengthExceeded);
}

}  // namespace
}  // namespace kvship
