#include "kernels/cuda/tile_layout.h"

#include <gtest/gtest.h>

#include <set>

#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/panel_layout.h"
#include "kernels/cuda/top_positions.h"

namespace kvship::cuda {
namespace {

TEST(TileLayout, EveryChunkOfATileHasItsOwnPlace) {
  for (int elements : {64, 128}) {
    std::set<int> places;
    for (int row = 0; row < 64; ++row) {
      for (int chunk = 0; chunk < elements / kChunkElements; ++chunk) {
        const int offset = TileOffset(elements, row, chunk);
        EXPECT_EQ(offset % kChunkElements, 0);
        EXPECT_EQ(offset / elements, row);
        places.insert(offset);
      }
    }
    EXPECT_EQ(places.size(), 64u * elements / kChunkElements);
  }
}

TEST(TileLayout, EightRowsOfAColumnOfChunksLieInAllBanks) {
  constexpr int kBankBytes = 4, kNumBanks = 32;
  for (int elements : {64, 128}) {
    for (int first_row : {0, 8, 16}) {
      for (int chunk = 0; chunk < elements / kChunkElements; ++chunk) {
        std::set<int> banks;
        for (int row = first_row; row < first_row + 8; ++row) {
          banks.insert(TileOffset(elements, row, chunk) * 2 / kBankBytes % kNumBanks);
        }
        EXPECT_EQ(banks.size(), 8u);  // of which each begins four neighbouring ones
      }
    }
  }
}

TEST(TileLayout, TheLanesOfAWarpAddressEveryRowOfFourMatricesOnce) {
  std::set<std::pair<int, int>> down, right;
  for (int lane = 0; lane < kWarpThreads; ++lane) {
    down.insert({DownThenRight(lane).row, DownThenRight(lane).chunk});
    right.insert({RightThenDown(lane).row, RightThenDown(lane).chunk});
  }
  EXPECT_EQ(down.size(), 32u);
  EXPECT_EQ(right, down);
  EXPECT_EQ(DownThenRight(8).row, 8);
  EXPECT_EQ(RightThenDown(8).chunk, 1);
}

TEST(PanelLayout, EveryChunkHasItsOwnPlaceInItsPanelsRow) {
  constexpr size_t kRows = 24, kChunks = 16;
  std::set<size_t> places;
  for (size_t row = 0; row < kRows; ++row) {
    for (size_t chunk = 0; chunk < kChunks; ++chunk) {
      const size_t offset = PanelOffset(kRows, row, chunk);
      EXPECT_EQ(offset / kPanelElements, chunk / 8 * kRows + row);
      places.insert(offset / 8);
    }
  }
  EXPECT_EQ(places.size(), kRows * kChunks);
  EXPECT_EQ(*places.rbegin(), kRows * kChunks - 1);
}

TEST(PanelLayout, AnOperandFurtherOnIsTheOperandOfTheAddressFurtherOn) {
  for (const uint32_t start : {0x400u, 0x8000u, 0x38000u}) {
    for (const uint32_t num_bytes : {0u, 32u, 96u, 8192u, 16416u}) {
      EXPECT_EQ(OperandAfter(OperandOf(start), num_bytes), OperandOf(start + num_bytes));
    }
  }
}

TEST(ScoreKey, OrdersAsScoresDo) {
  const float nan = __builtin_nanf(""), inf = __builtin_inff();
  const float ascending[] = {-inf, -2.0f, -1e-40f, 0.0f, 1e-45f, 1e-38f, 1.0f, 1.5f, inf};
  const auto key = [](float x) { return ScoreKey(std::bit_cast<uint32_t>(x)); };
  EXPECT_LT(key(nan), key(-inf));
  EXPECT_EQ(key(nan), key(-nan));
  EXPECT_EQ(key(0.0f), key(-0.0f));
  for (size_t i = 1; i < std::size(ascending); ++i)
    EXPECT_LT(key(ascending[i - 1]), key(ascending[i]));
}

TEST(ScoreKey, IsMadeOfItsDigits) {
  for (uint32_t key : {0u, ~0u, 0x12345678u, 0x87654321u}) {
    uint32_t joined = 0;
    for (int pass = 0; pass < kRadixPasses; ++pass) {
      EXPECT_EQ(RadixPrefix(key, pass), joined);
      EXPECT_LT(RadixDigit(key, pass), static_cast<uint32_t>(kRadixBins));
      joined |= RadixDigit(key, pass) << RadixShift(pass);
    }
    EXPECT_EQ(joined, key);
  }
}

TEST(PagedHead, PagesRunThroughThePrefixAndThenTheTail) {
  PagedHead head;
  head.num_prefix_tokens = 70;
  head.num_tail_tokens = 5;
  EXPECT_EQ(NumPages(head), 4u);
  const auto expect = [&](uint32_t page, bool in_tail, uint32_t own_page, uint32_t num_tokens) {
    const PageSlice slice = SliceOf(head, page);
    EXPECT_EQ(slice.in_tail, in_tail);
    EXPECT_EQ(slice.page, own_page);
    EXPECT_EQ(slice.num_tokens, num_tokens);
  };
  expect(0, false, 0, 32);
  expect(2, false, 2, 6);
  expect(3, true, 0, 5);
  expect(4, true, 1, 0);
}

}  // namespace
}  // namespace kvship::cuda
