#include "decode_service/prefix_places.h"

#include <gtest/gtest.h>

#include <map>

#include "kv/prefix_digests.h"

namespace kvship {
namespace {

// Of a prompt of whole blocks, each of one id.
std::vector<Sha256Digest> Blocks(const std::vector<int32_t>& ids) {
  std::vector<int32_t> tokens;
  for (const int32_t id : ids) tokens.insert(tokens.end(), kPrefixBlockTokens, id);
  return PrefixDigests(tokens);
}

TEST(PrefixPlaces, WhereTheLongestBeginningIs) {
  PrefixPlaces places;
  EXPECT_TRUE(places.Find(Blocks({1, 2})).address.empty());
  EXPECT_TRUE(places.Find({}).address.empty());
  places.Note(Blocks({1, 2, 3}), "a");
  places.Note(Blocks({1, 4}), "b");
  EXPECT_EQ(places.Find(Blocks({1, 2, 3, 5})).address, "a");
  EXPECT_EQ(places.Find(Blocks({1, 2, 3, 5})).num_blocks, 3u);
  EXPECT_EQ(places.Find(Blocks({1, 2})).address, "a");
  EXPECT_EQ(places.Find(Blocks({1, 5})).address, "b") << "the last to be given it";
  EXPECT_EQ(places.Find(Blocks({1, 5})).num_blocks, 1u);
  EXPECT_TRUE(places.Find(Blocks({2, 2, 3})).address.empty());
}

TEST(PrefixPlaces, ForgetsTheLeastRecentlyUsedAndOfAPromptItsEndFirst) {
  PrefixPlaces places(4);
  places.Note(Blocks({1, 2}), "a");
  places.Note(Blocks({3, 4}), "b");
  places.Note(Blocks({1, 2}), "a");
  places.Note(Blocks({5}), "c");
  EXPECT_EQ(places.Find(Blocks({1, 2})).num_blocks, 2u);
  EXPECT_EQ(places.Find(Blocks({3, 4})).num_blocks, 1u);
  EXPECT_EQ(places.Find(Blocks({5})).num_blocks, 1u);
  places.Note(Blocks({6, 7, 8, 9, 10}), "d");
  EXPECT_EQ(places.Find(Blocks({6, 7, 8, 9, 10})).num_blocks, 4u);
}

TEST(PreferredPlace, IsTheSameForAllAndStaysWhenOthersGo) {
  const std::vector<absl::string_view> all = {"10.0.0.1:50051", "10.0.0.2:50051", "10.0.0.3:50051"};
  std::map<absl::string_view, int> times;
  for (int i = 0; i < 300; ++i) {
    Sha256Digest digest = {};
    digest[0] = static_cast<std::byte>(i);
    digest[1] = static_cast<std::byte>(i / 256);
    const absl::string_view place = all[PreferredPlace(all, digest)];
    ++times[place];
    const std::vector<absl::string_view> reversed(all.rbegin(), all.rend());
    EXPECT_EQ(reversed[PreferredPlace(reversed, digest)], place);
    std::vector<absl::string_view> fewer;
    for (const absl::string_view address : all) {
      if (address != "10.0.0.3:50051" || place == address) fewer.push_back(address);
    }
    EXPECT_EQ(fewer[PreferredPlace(fewer, digest)], place);
  }
  for (const absl::string_view address : all) EXPECT_GT(times[address], 70) << address;
}

}  // namespace
}  // namespace kvship
