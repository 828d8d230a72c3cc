#include "decode_service/prefix_places.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace kvship
