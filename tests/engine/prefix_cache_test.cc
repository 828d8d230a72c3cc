#include "engine/prefix_cache.h"

#include <gtest/gtest.h>

namespace kvship {
namespace {

constexpr size_t kBlockBytes = 64;

// A prompt of `num_blocks` whole blocks of the same id.
std::vector<int32_t> Prompt(int32_t id, size_t num_blocks) {
  return std::vector<int32_t>(num_blocks * kPrefixBlockTokens, id);
}

// Reads a prompt as a run does: fills what it does not find. Returns how many blocks it found.
size_t Read(PrefixCache& cache, const std::vector<int32_t>& tokens) {
  const PrefixCache::Prefix prefix = cache.Begin(tokens, "", tokens.size());
  for (size_t i = 0; i < prefix.blocks.size(); ++i) {
    if (i < prefix.num_found) {
      EXPECT_EQ(*prefix.blocks[i], prefix.digests[i][0]);
    }
    *prefix.blocks[i] = prefix.digests[i][0];
  }
  cache.Keep(prefix);
  return prefix.num_found;
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

TEST(PrefixDigests, BelongToOneSalt) {
  const std::vector<int32_t> tokens(2 * kPrefixBlockTokens, 7);
  const std::vector<Sha256Digest> salted = PrefixDigests(tokens, "a");
  ASSERT_EQ(salted.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(salted[i], PrefixDigests(tokens, "a")[i]);
    EXPECT_NE(salted[i], PrefixDigests(tokens, "b")[i]);
    EXPECT_NE(salted[i], PrefixDigests(tokens)[i]);
  }
}

TEST(PrefixCache, FindsWhatItWasGivenUpToTheFirstGap) {
  PrefixCache cache(kBlockBytes, 10 * kBlockBytes);
  EXPECT_EQ(Read(cache, Prompt(1, 2)), 0u);
  EXPECT_EQ(Read(cache, Prompt(1, 4)), 2u);
  EXPECT_EQ(Read(cache, Prompt(1, 3)), 3u);
  EXPECT_EQ(cache.num_bytes(), 4 * kBlockBytes);
}

TEST(PrefixCache, ReusesNoMoreTokensThanItMay) {
  PrefixCache cache(kBlockBytes, 10 * kBlockBytes);
  Read(cache, Prompt(1, 3));
  for (const auto& [most, reused] :
       {std::pair{size_t{0}, 0}, std::pair{2 * kPrefixBlockTokens - 1, 1},
        std::pair{SIZE_MAX, 3}}) {
    EXPECT_EQ(cache.CountReusable(Prompt(1, 3), "", most), reused * kPrefixBlockTokens);
    EXPECT_EQ(cache.Begin(Prompt(1, 3), "", most).reused_tokens(), reused * kPrefixBlockTokens);
  }
  EXPECT_EQ(cache.CountReusable(Prompt(1, 5), "", SIZE_MAX), 3 * kPrefixBlockTokens);
  EXPECT_EQ(cache.CountReusable(Prompt(2, 5), "", SIZE_MAX), 0u);
}

TEST(PrefixCache, AnotherSaltFindsNothing) {
  PrefixCache cache(kBlockBytes, 10 * kBlockBytes);
  Read(cache, Prompt(1, 3));
  EXPECT_EQ(cache.CountReusable(Prompt(1, 3), "mine", SIZE_MAX), 0u);
  EXPECT_EQ(cache.Begin(Prompt(1, 3), "mine", SIZE_MAX).num_found, 0u);
  EXPECT_EQ(cache.Begin(Prompt(1, 3), "", SIZE_MAX).num_found, 3u);
}

TEST(PrefixCache, ForgetsTheLeastRecentlyUsedAndOfAPromptItsEndFirst) {
  PrefixCache cache(kBlockBytes, 5 * kBlockBytes);
  Read(cache, Prompt(1, 3));
  Read(cache, Prompt(2, 2));
  EXPECT_EQ(Read(cache, Prompt(1, 3)), 3u);  // used
  Read(cache, Prompt(3, 1));
  EXPECT_EQ(Read(cache, Prompt(1, 3)), 3u);
  EXPECT_EQ(cache.num_bytes(), 5 * kBlockBytes);
  EXPECT_EQ(Read(cache, Prompt(2, 2)), 1u);
}

TEST(PrefixCache, TakesNothingOutOfHandsThatHoldIt) {
  PrefixCache cache(kBlockBytes, 2 * kBlockBytes);
  Read(cache, Prompt(1, 1));
  const PrefixCache::Prefix held = cache.Begin(Prompt(1, 1), "", SIZE_MAX);
  auto cancelled = std::make_unique<PrefixCache::Prefix>(cache.Begin(Prompt(2, 2), "", SIZE_MAX));
  ASSERT_EQ(cancelled->blocks.size(), 1u);
  EXPECT_TRUE(cache.Begin(Prompt(3, 1), "", SIZE_MAX).blocks.empty());
  cancelled.reset();
  EXPECT_EQ(cache.Begin(Prompt(3, 1), "", SIZE_MAX).blocks.size(), 1u);
  EXPECT_EQ(Read(cache, Prompt(1, 1)), 1u);
}

TEST(PrefixCache, GoesOnWithWhatItHasWhereTheSystemGivesNoMore) {
  size_t left = 1;
  PrefixCache cache(kBlockBytes, 9 * kBlockBytes,
                    [&left](size_t num_bytes) -> absl::StatusOr<PrefixCache::Block> {
                      if (left == 0) return absl::ResourceExhaustedError("none left");
                      --left;
                      return PrefixCache::OnHost(num_bytes);
                    });
  EXPECT_EQ(Read(cache, Prompt(1, 2)), 0u);
  EXPECT_EQ(Read(cache, Prompt(1, 2)), 1u);
  EXPECT_EQ(Read(cache, Prompt(2, 1)), 0u);
  EXPECT_EQ(Read(cache, Prompt(2, 1)), 1u);
  EXPECT_EQ(Read(cache, Prompt(1, 2)), 0u);
}

TEST(PrefixCache, TakesAllItsMemoryWhereThatIsAsked) {
  size_t num_taken = 0;
  const auto count = [&num_taken](size_t num_bytes) {
    ++num_taken;
    return PrefixCache::OnHost(num_bytes);
  };
  PrefixCache cache(kBlockBytes, 3 * kBlockBytes, count);
  EXPECT_EQ(num_taken, 0u);
  EXPECT_EQ(cache.TakeMemory(), absl::OkStatus());
  EXPECT_EQ(num_taken, 3u);
  Read(cache, Prompt(1, 5));
  EXPECT_EQ(num_taken, 3u);
  PrefixCache none(kBlockBytes, kBlockBytes,
                   [](size_t) { return absl::ResourceExhaustedError("none left"); });
  EXPECT_EQ(none.TakeMemory(), absl::ResourceExhaustedError("none left"));
}

TEST(PrefixCache, BlocksMayOutliveIt) {
  auto cache = std::make_unique<PrefixCache>(kBlockBytes, kBlockBytes);
  const PrefixCache::Prefix prefix = cache->Begin(Prompt(1, 1), "", 0);
  cache.reset();
  *prefix.blocks[0] = std::byte{1};
}

TEST(PrefixCache, SaysHowMuchIsTooLittle) {
  EXPECT_EQ(PrefixCache::CheckBytes(0, 64), absl::OkStatus());
  EXPECT_EQ(PrefixCache::CheckBytes(64, 64), absl::OkStatus());
  EXPECT_EQ(
      PrefixCache::CheckBytes(63, 64),
      absl::InvalidArgumentError("prefix_cache_bytes 63: wanted 0, or at least 64, which hold "
                                 "256 tokens of this model"));
}

}  // namespace
}  // namespace kvship
