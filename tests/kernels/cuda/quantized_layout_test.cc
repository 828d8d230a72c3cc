#include "kernels/cuda/quantized_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace kvship::cuda {
namespace {

template <class Layout, int kDim>
struct Case {
  using Codes = Layout;
  static constexpr int kHeadDim = kDim;
};
template <PageFormat kFormat, int kHeadDim>
using CaseOf = Case<CodeLayout<kFormat, kHeadDim>, kHeadDim>;

template <class T>
class CodeLayoutTest : public ::testing::Test {};
using Cases = ::testing::Types<CaseOf<PageFormat::kInt8, 128>, CaseOf<PageFormat::kInt8, 64>,
                               CaseOf<PageFormat::kInt4, 128>, CaseOf<PageFormat::kInt4, 64>>;
TYPED_TEST_SUITE(CodeLayoutTest, Cases);

TYPED_TEST(CodeLayoutTest, TheLanesOfAKeyTakeEveryChannelOnce) {
  std::set<int> channels;
  for (int quarter = 0; quarter < 4; ++quarter) {
    for (int step = 0; step < TypeParam::kHeadDim / 16; ++step) {
      for (int i = 0; i < 4; ++i) channels.insert(TypeParam::Codes::KeyChannel(quarter, step) + i);
    }
  }
  EXPECT_EQ(channels.size(), static_cast<size_t>(TypeParam::kHeadDim));
  EXPECT_EQ(*channels.rbegin(), TypeParam::kHeadDim - 1);
}

TYPED_TEST(CodeLayoutTest, TheLanesOfAValueTakeEveryChannelOnceAndOneGroupEach) {
  std::set<int> channels;
  for (int eighth = 0; eighth < 8; ++eighth) {
    std::set<int> groups;
    for (int tile = 0; tile < TypeParam::kHeadDim / 16; ++tile) {
      for (int i = 0; i < 2; ++i) {
        channels.insert(TypeParam::Codes::ValueChannel(eighth, tile) + i);
        groups.insert((TypeParam::Codes::ValueChannel(eighth, tile) + i) /
                      static_cast<int>(kValueGroup));
      }
    }
    EXPECT_EQ(groups,
              std::set<int>{eighth * (TypeParam::kHeadDim / 8) / static_cast<int>(kValueGroup)});
  }
  EXPECT_EQ(channels.size(), static_cast<size_t>(TypeParam::kHeadDim));
  EXPECT_EQ(*channels.rbegin(), TypeParam::kHeadDim - 1);
}

TYPED_TEST(CodeLayoutTest, EveryByteHasItsOwnPlace) {
  using Layout = typename TypeParam::Codes;
  std::set<int> places;
  for (int row = 0; row < 64; ++row) {
    for (int byte = 0; byte < Layout::kRowBytes; ++byte) places.insert(Layout::Offset(row, byte));
  }
  EXPECT_EQ(places.size(), 64u * Layout::kRowBytes);
  EXPECT_EQ(*places.rbegin(), 64 * Layout::kRowBytes - 1);
}

// As many lanes as read 128 bytes together.
TYPED_TEST(CodeLayoutTest, WhatLanesReadAtOnceLiesInAllBanks) {
  using Layout = typename TypeParam::Codes;
  constexpr int kLine = 128;
  const auto expect_all = [&](int bytes, auto&& offset) {
    for (int first = 0; first < 32; first += kLine / bytes) {
      std::set<int> places;
      for (int lane = first; lane < first + kLine / bytes && lane < 32; ++lane) {
        places.insert(offset(lane) % kLine / bytes);
      }
      EXPECT_EQ(places.size(), static_cast<size_t>(std::min(32, kLine / bytes)));
    }
  };
  expect_all(std::min(16, Layout::kKeyBytes),
             [](int lane) { return Layout::Offset(lane / 4, lane % 4 * Layout::kKeyBytes); });
  expect_all(Layout::kValueBytes, [](int lane) {
    return Layout::Offset(lane % 4 * 2 + 1, lane / 4 * Layout::kValueBytes);
  });
}

}  // namespace
}  // namespace kvship::cuda
