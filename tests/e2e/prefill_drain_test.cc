// A prefill node that is stopped while it reads a prompt that takes longer than it may.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <iostream>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "tests/e2e/long_context_model.h"
#include "tests/e2e/stream.h"
#include "tests/e2e/tiny_request.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

// So slow that the prompt takes some tenths of a second.
const std::vector<std::string> kSlow = {"--threads=1", "--block_tokens=1", "--float32",
                                        "--drain_timeout=20ms"};

void Stop(Server& prefill) {
  ASSERT_TRUE(Eventually([&] { return prefill.metric("kvship_prefill_active_requests") == 1; }));
  const absl::Time begun = MonotonicNow();
  prefill.process.Signal(SIGTERM);
  EXPECT_EQ(prefill.process.Wait(), 0) << prefill.process.Errors();
  const absl::Duration taken = MonotonicNow() - begun;
  std::cout << "--drain_timeout=20ms under a prompt: the node had ended after " << taken
            << std::endl;
  EXPECT_LT(taken, absl::Seconds(8));
  EXPECT_THAT(prefill.process.Errors(), HasSubstr("did not end within 20ms"));
}

TEST(PrefillDrainTest, APromptThatOutlivesTheWaitIsToldToComeAgain) {
  const LongContextModel model;
  Server prefill("kvship-prefill", model.path(), kSlow);
  Server decode("kvship-decode", model.path(),
                {"--threads=1", absl::StrCat("--prefill=", prefill.address())});
  ASSERT_TRUE(prefill.WaitUntilReady() && decode.WaitUntilReady());
  Stream stream(decode, TinyRequest(6000, 5));
  Stop(prefill);
  const absl::Status end = stream.WaitForEnd();
  EXPECT_EQ(end.code(), absl::StatusCode::kUnavailable) << end;
  EXPECT_THAT(std::string(end.message()), HasSubstr("shutting down; send the request again"));
}

TEST(PrefillDrainTest, APromptThatOutlivesTheWaitGoesToAnotherNode) {
  const LongContextModel model;
  Server first("kvship-prefill", model.path(), kSlow);
  Server second("kvship-prefill", model.path(), kSlow);
  Server decode(
      "kvship-decode", model.path(),
      {"--threads=1", absl::StrCat("--prefill=", first.address(), ",", second.address())});
  ASSERT_TRUE(first.WaitUntilReady() && second.WaitUntilReady() && decode.WaitUntilReady());
  ASSERT_TRUE(Eventually([&] { return decode.num_serving_nodes() == 2; }));
  // The second one goes to the node that has nothing to do.
  Stream one(decode, TinyRequest(6000, 5)), other(decode, TinyRequest(6000, 5));
  Stop(first);
  EXPECT_EQ(one.WaitForEnd(), absl::OkStatus());
  EXPECT_EQ(other.WaitForEnd(), absl::OkStatus());
  EXPECT_EQ(decode.metric("kvship_decode_prefill_retries_total{reason=\"draining\"}"), 1);
}

}  // namespace
}  // namespace kvship
