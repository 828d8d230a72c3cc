#include "decode_service/prefill_targets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;

TEST(PrefillTargets, AreHostsWithPorts) {
  EXPECT_EQ(CheckTargets({"127.0.0.1:50051", "[::1]:65535", "prefill:1", "dns:///prefill:50051"}),
            absl::OkStatus());
}

TEST(PrefillTargets, OthersAreRefusedByTheFlagsName) {
  for (const std::string target :
       {"", "127.0.0.1", "dns:///prefill", "prefill:", ":50051", "a:b", "a:0", "a:65536", "a: 1",
        "[::1]", "::1:50051", "ipv4:10.0.0.1:1", "dns://8.8.8.8/prefill:50051"}) {
    const absl::Status status = CheckTargets({"127.0.0.1:50051", target});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << target;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat("--prefill is '", target, "'; wanted")));
  }
  EXPECT_FALSE(CheckTargets({}).ok());
}

}  // namespace
}  // namespace kvship
