#include "transport/nccl_staging.h"

#include <gtest/gtest.h>

#include <cstring>

namespace kvship {
namespace {

class NcclStagingTest : public ::testing::Test {
 protected:
  static constexpr size_t kFrames = 2;

  std::vector<std::byte> device_ = std::vector<std::byte>(kFrames * kMostFrameBytes);
  std::vector<std::byte> host_ = std::vector<std::byte>(kFrames * kMostFrameBytes);
  std::shared_ptr<NcclStaging> staging_ = NcclStaging::Create(
      device_, host_, [](std::byte* to, const std::byte* from, size_t num_bytes) {
        std::memcpy(to, from, num_bytes);
        return absl::OkStatus();
      });
};

TEST_F(NcclStagingTest, GivesEachBlockToOneUserAtATime) {
  auto first = staging_->Take();
  const auto second = staging_->Take();
  ASSERT_TRUE(first != nullptr && second != nullptr);
  EXPECT_NE(first->device, second->device);
  EXPECT_NE(first->host, second->host);
  EXPECT_EQ(staging_->Take(), nullptr);
  const std::byte* const freed = first->device;
  first = nullptr;
  EXPECT_EQ(staging_->num_free(), 1);
  EXPECT_EQ(staging_->Take()->device, freed);
}

TEST_F(NcclStagingTest, CopiesToTheDeviceAndBack) {
  const auto block = staging_->Take();
  const std::vector<std::byte> bytes(1000, std::byte{7});
  ASSERT_TRUE(staging_->Upload(*block, bytes).ok());
  ASSERT_TRUE(staging_->Download(*block, bytes.size()).ok());
  EXPECT_EQ(std::memcmp(block->host, bytes.data(), bytes.size()), 0);
}

TEST_F(NcclStagingTest, ABlockMayOutliveWhoMadeIt) {
  const auto block = staging_->Take();
  const std::weak_ptr<NcclStaging> kept = staging_;
  staging_ = nullptr;
  EXPECT_FALSE(kept.expired());
}

}  // namespace
}  // namespace kvship
