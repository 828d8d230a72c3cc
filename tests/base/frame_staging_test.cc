#include "base/frame_staging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"

namespace kvship {
namespace {

using ::testing::IsEmpty;

class FrameStagingTest : public ::testing::Test {
 protected:
  static constexpr size_t kFrames = 2;

  std::vector<std::byte> device_ = std::vector<std::byte>(kFrames * kMostFrameBytes);
  std::vector<std::byte> host_ = std::vector<std::byte>(kFrames * kMostFrameBytes);
  std::shared_ptr<FrameStaging> staging_ = FrameStaging::Create(
      device_, host_,
      {.copy =
           [](std::byte* to, const std::byte* from, size_t num_bytes) {
             std::memcpy(to, from, num_bytes);
             return absl::OkStatus();
           },
       .checksum = [](std::span<const std::byte> bytes) { return Crc32c(bytes); }});
};

TEST_F(FrameStagingTest, GivesEachBlockToOneUserAtATime) {
  auto both = staging_->Take(2);
  ASSERT_EQ(both.size(), 2);
  EXPECT_NE(both[0]->device(), both[1]->device());
  EXPECT_THAT(staging_->Take(1), IsEmpty());
  const std::byte* const freed = both[0]->device();
  both.erase(both.begin());
  EXPECT_EQ(staging_->num_free(), 1);
  EXPECT_EQ(staging_->Take(1).at(0)->device(), freed);
}

TEST_F(FrameStagingTest, GivesAllThatIsAskedForOrNothing) {
  EXPECT_THAT(staging_->Take(3), IsEmpty());
  EXPECT_EQ(staging_->num_free(), 2);
}

TEST_F(FrameStagingTest, CopiesToTheDeviceAndBack) {
  const auto block = staging_->Take(1).at(0);
  const std::vector<std::byte> bytes(1000, std::byte{7});
  ASSERT_TRUE(block->Upload(bytes).ok());
  EXPECT_EQ(std::memcmp(block->device(), bytes.data(), bytes.size()), 0);
  const auto back = block->Download(bytes.size());
  ASSERT_TRUE(back.ok());
  EXPECT_NE(back->data(), block->device());
  EXPECT_TRUE(std::ranges::equal(*back, bytes));
  EXPECT_EQ(block->Checksum(bytes.size()).value(), Crc32c(bytes));
}

TEST_F(FrameStagingTest, ABlockMayOutliveWhoMadeIt) {
  const auto block = staging_->Take(1);
  const std::weak_ptr<FrameStaging> kept = staging_;
  staging_ = nullptr;
  EXPECT_FALSE(kept.expired());
}

}  // namespace
}  // namespace kvship
