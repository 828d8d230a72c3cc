#include "kernels/cuda/frames.h"

#include <gmock/gmock.h>

#include <cstring>
#include <numeric>
#include <span>

#include "kernels/page_layout.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

using ::testing::HasSubstr;

// A layer in parts, and in the bytes of the wire.
struct Layer {
  Layer(const std::vector<int32_t>& kept, size_t page_bytes, size_t tail_bytes, bool has_positions)
      : page_bytes(page_bytes),
        has_positions(has_positions),
        offsets(kept.size() + 1),
        tails(RandomBytes(tail_bytes, 3)) {
    std::partial_sum(kept.begin(), kept.end(), offsets.begin() + 1);
    size_t num_pages = 0;
    for (int32_t tokens : kept) num_pages += PagesFor(static_cast<size_t>(tokens));
    positions.resize(static_cast<size_t>(offsets.back()));
    std::iota(positions.begin(), positions.end(), 1000);
    pages = RandomBytes(num_pages * page_bytes, 4);
    const std::byte* next_page = pages.data();
    for (size_t h = 0; h < kept.size(); ++h) {
      const auto own = std::span(positions).subspan(static_cast<size_t>(offsets[h]),
                                                    static_cast<size_t>(kept[h]));
      if (has_positions) Append(std::as_bytes(own));
      const size_t num_bytes = PagesFor(own.size()) * page_bytes;
      Append({next_page, num_bytes});
      next_page += num_bytes;
    }
    Append(tails);
  }

  void Append(std::span<const std::byte> bytes) {
    wire.insert(wire.end(), bytes.begin(), bytes.end());
  }

  // Frames of the device hold the layer, and their remainders give its checksums.
  void Check(size_t num_frames) const {
    const DeviceArray<int32_t> device_offsets(offsets), device_positions(positions);
    const DeviceArray<std::byte> device_pages(pages), device_tails(tails);
    const DeviceArray<std::byte> memory(num_frames * kMostFrameBytes);
    const DeviceArray<uint32_t> remainders(num_frames * kFrameTiles);
    LayFramesArgs args = {.offsets = device_offsets.data(),
                          .positions = has_positions ? device_positions.data() : nullptr,
                          .pages = device_pages.data(),
                          .tails = device_tails.data(),
                          .num_heads = offsets.size() - 1,
                          .page_bytes = page_bytes,
                          .tail_bytes = tails.size(),
                          .num_frames = num_frames,
                          .remainders = remainders.data()};
    // Frames lie anywhere.
    for (size_t i = 0; i < num_frames; ++i) {
      args.frames[i] = memory.data() + (num_frames - 1 - i) * kMostFrameBytes;
    }
    ASSERT_EQ(LayFrames(nullptr, args), absl::OkStatus());
    const std::vector<std::byte> laid = memory.ToHost();
    const std::vector<uint32_t> tiles = remainders.ToHost();
    for (size_t i = 0; i < num_frames; ++i) {
      const size_t begin = std::min(i * kMostFrameBytes, wire.size());
      const auto wanted =
          std::span(wire).subspan(begin).first(std::min(wire.size() - begin, kMostFrameBytes));
      const auto frame = std::span(laid).subspan((num_frames - 1 - i) * kMostFrameBytes);
      EXPECT_EQ(std::memcmp(frame.data(), wanted.data(), wanted.size()), 0) << "frame " << i;
      const auto own = std::span(tiles).subspan(i * kFrameTiles, NumCrc32cTiles(wanted.size()));
      EXPECT_EQ(Crc32cOfTiles(own, wanted.size()), Crc32c(wanted)) << "frame " << i;
      if (wanted.size() == kMostFrameBytes) continue;
      EXPECT_EQ(frame[wanted.size()], std::byte{0xff}) << "frame " << i << " is written on";
    }
  }

  size_t page_bytes;
  bool has_positions;
  std::vector<int32_t> offsets, positions;
  std::vector<std::byte> pages, tails, wire;
};

class FramesTest : public DeviceTest {};

TEST_F(FramesTest, HoldALayerAsItCrossesTheWire) {
  Layer({5, 0, 33, 64}, 8192, 0, true).Check(2);
  Layer({1}, 1088, 0, true).Check(1);
  Layer({0, 0, 0}, 1024, 4096, true).Check(1);
  Layer({300, 20, 0, 1111}, 16384, 3 * 8192, true).Check(2);
}

TEST_F(FramesTest, PositionsAreLeftOutWhereTheWireHasNone) {
  Layer({70, 70}, 8192, 8192, false).Check(1);
}

TEST_F(FramesTest, ALayerMayEndWithAFrame) {
  // 4 * (1024 + 31 * 32768 / 32) and the pages: exactly one frame.
  Layer({32 * 32, 0}, (kMostFrameBytes - 4096) / 32, 0, true).Check(2);
}

TEST_F(FramesTest, ManyHeadsOfOneTokenShareATile) {
  Layer(std::vector<int32_t>(256, 1), 64, 0, true).Check(1);
}

TEST_F(FramesTest, AFramesRemaindersGiveItsChecksum) {
  for (size_t num_bytes : {size_t{4}, size_t{1024}, size_t{1028}, kCrc32cTileBytes,
                           kCrc32cTileBytes + 4, size_t{200'000}, kMostFrameBytes}) {
    const std::vector<std::byte> bytes = RandomBytes(num_bytes, 7);
    const DeviceArray<std::byte> frame(bytes);
    const DeviceArray<uint32_t> remainders(kFrameTiles);
    ASSERT_EQ(FrameRemainders(nullptr, frame.data(), num_bytes, remainders.data()),
              absl::OkStatus());
    const std::vector<uint32_t> tiles = remainders.ToHost();
    EXPECT_EQ(Crc32cOfTiles(std::span(tiles).first(NumCrc32cTiles(num_bytes)), num_bytes),
              Crc32c(bytes))
        << num_bytes;
  }
}

TEST_F(FramesTest, WhatCannotBeIsRefused) {
  const auto refused = [](LayFramesArgs args) {
    return std::string(LayFrames(nullptr, args).message());
  };
  const LayFramesArgs right = {.num_heads = 2, .page_bytes = 64, .num_frames = 1};
  LayFramesArgs args = right;
  args.num_heads = 257;
  EXPECT_THAT(refused(args), HasSubstr("num_heads 257: wanted 1 to 256"));
  args = right;
  args.num_frames = kMostLaidFrames + 1;
  EXPECT_THAT(refused(args), HasSubstr("num_frames 65: wanted 1 to 64"));
  args = right;
  args.page_bytes = 66;
  EXPECT_THAT(refused(args), HasSubstr("page_bytes 66: wanted a multiple of 4"));
  args = right;
  args.tail_bytes = 2;
  EXPECT_THAT(refused(args), HasSubstr("tail_bytes 2: wanted a multiple of 4"));
  for (size_t num_bytes : {size_t{0}, size_t{6}, kMostFrameBytes + 4}) {
    EXPECT_THAT(std::string(FrameRemainders(nullptr, nullptr, num_bytes, nullptr).message()),
                HasSubstr("wanted a multiple of 4 from 4 to 1048576"));
  }
}

}  // namespace
}  // namespace kvship::cuda
