#include "engine/compute_device.h"

#include <gtest/gtest.h>

namespace kvship {
namespace {

TEST(ComputeDevice, NamesTheCpuOrOneGpu) {
  EXPECT_FALSE(ParseComputeDevice("cpu")->is_gpu);
  EXPECT_TRUE(ParseComputeDevice("cuda")->is_gpu);
  EXPECT_EQ(ParseComputeDevice("cuda")->ordinal, 0);
  EXPECT_TRUE(ParseComputeDevice("cuda:3")->is_gpu);
  EXPECT_EQ(ParseComputeDevice("cuda:3")->ordinal, 3);
}

TEST(ComputeDevice, RefusesWhatNamesNothing) {
  for (const char* text :
       {"", "gpu", "cuda:", "cuda:-1", "cuda: 1", "cuda:1x", "cuda:99999999999"}) {
    const absl::Status status = ParseComputeDevice(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(status.message(),
              "--device is '" + std::string(text) + "'; wanted cpu, cuda or cuda:N");
  }
}

}  // namespace
}  // namespace kvship
