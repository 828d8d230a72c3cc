#include "engine/prefix_cache.h"

#include <gtest/gtest.h>

#include "kv/prefix_digests.h"

namespace kvship {
namespace {

using Block = PrefixCache::Block;

constexpr size_t kBlockBytes = 64;

// Of a prompt of `num_blocks` whole blocks of the same id.
std::vector<Sha256Digest> DigestsOf(int32_t id, size_t num_blocks) {
  return PrefixDigests(std::vector<int32_t>(num_blocks * kPrefixBlockTokens, id));
}

// Reads a prompt as a run does: what is not found is taken, filled and inserted.
void Read(PrefixCache& cache, const std::vector<Sha256Digest>& digests) {
  std::vector<Block> blocks = cache.Find(digests);
  while (blocks.size() < digests.size()) {
    Block block = cache.Take();
    if (block == nullptr) break;
    *block = digests[blocks.size()][0];
    blocks.push_back(std::move(block));
  }
  cache.Insert(digests, blocks);
}

TEST(PrefixDigests, StandForAllTokensUpToTheirBlocksEnd) {
  std::vector<int32_t> tokens(3 * kPrefixBlockTokens + 5, 7);
  const std::vector<Sha256Digest> digests = PrefixDigests(tokens);
  ASSERT_EQ(digests.size(), 3u);
  EXPECT_NE(digests[0], digests[1]);
  tokens[kPrefixBlockTokens] = 8;
  const std::vector<Sha256Digest> others = PrefixDigests(tokens);
  EXPECT_EQ(digests[0], others[0]);
  EXPECT_NE(digests[1], others[1]);
  EXPECT_NE(digests[2], others[2]);
  EXPECT_TRUE(PrefixDigests(std::span(tokens).first(kPrefixBlockTokens - 1)).empty());
}

TEST(PrefixCache, FindsWhatItWasGivenUpToTheFirstGap) {
  PrefixCache cache(kBlockBytes, 10 * kBlockBytes);
  const std::vector<Sha256Digest> digests = DigestsOf(1, 4);
  EXPECT_TRUE(cache.Find(digests).empty());
  Read(cache, std::vector(digests.begin(), digests.begin() + 2));
  const std::vector<Block> found = cache.Find(digests);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(*found[0], digests[0][0]);
  EXPECT_EQ(*found[1], digests[1][0]);
  EXPECT_TRUE(cache.Find(std::span(digests).subspan(2)).empty());
  EXPECT_EQ(cache.num_bytes(), 2 * kBlockBytes);
}

TEST(PrefixCache, ForgetsTheLeastRecentlyUsedAndOfAPromptItsEndFirst) {
  PrefixCache cache(kBlockBytes, 5 * kBlockBytes);
  Read(cache, DigestsOf(1, 3));
  Read(cache, DigestsOf(2, 2));
  EXPECT_EQ(cache.Find(DigestsOf(1, 3)).size(), 3u);  // used
  Read(cache, DigestsOf(3, 1));
  EXPECT_EQ(cache.Find(DigestsOf(2, 2)).size(), 1u);
  EXPECT_EQ(cache.Find(DigestsOf(1, 3)).size(), 3u);
  EXPECT_EQ(cache.num_bytes(), 5 * kBlockBytes);
}

TEST(PrefixCache, TakesNothingOutOfHandsThatHoldIt) {
  PrefixCache cache(kBlockBytes, 2 * kBlockBytes);
  Read(cache, DigestsOf(1, 1));
  const std::vector<Block> held = cache.Find(DigestsOf(1, 1));
  Block filling = cache.Take();
  ASSERT_NE(filling, nullptr);
  EXPECT_EQ(cache.Take(), nullptr);
  const std::byte* const bytes = filling.get();
  filling.reset();  // a run that was cancelled
  EXPECT_EQ(cache.Take().get(), bytes);
  EXPECT_EQ(cache.Find(DigestsOf(1, 1)), held);
}

TEST(PrefixCache, IsEmptyWithRoomForNoBlock) {
  PrefixCache cache(kBlockBytes, kBlockBytes - 1);
  EXPECT_EQ(cache.Take(), nullptr);
}

TEST(PrefixCache, GoesOnWithWhatItHasWhereTheSystemGivesNoMore) {
  size_t left = 1;
  PrefixCache cache(kBlockBytes, 9 * kBlockBytes, [&left](size_t num_bytes) {
    return left-- > 0 ? PrefixCache::OnHost(num_bytes) : absl::ResourceExhaustedError("none left");
  });
  Read(cache, DigestsOf(1, 2));
  EXPECT_EQ(cache.Find(DigestsOf(1, 2)).size(), 1u);
  left = 0;
  Read(cache, DigestsOf(2, 1));
  EXPECT_EQ(cache.Find(DigestsOf(2, 1)).size(), 1u);
  EXPECT_TRUE(cache.Find(DigestsOf(1, 2)).empty());
}

TEST(PrefixCache, BlocksMayOutliveIt) {
  auto cache = std::make_unique<PrefixCache>(kBlockBytes, kBlockBytes);
  const Block block = cache->Take();
  cache.reset();
  *block = std::byte{1};
}

}  // namespace
}  // namespace kvship
