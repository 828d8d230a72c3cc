// Which codes of a quantized page a lane multiplies, and where they lie in shared memory. Plain
// arithmetic without CUDA, so that the CPU's tests can check it.
//
// In both products of decode attention the page is the operand A: tokens times channels with the
// queries, channels times tokens with the weights. The order of channels is free in both, as long
// as queries and outputs follow it. So each lane takes codes that lie side by side, and reads as
// many at once as it can: of a key a quarter of the row, of a value an eighth.
#pragma once

#include "kernels/page_layout.h"

namespace kvship::cuda {

template <PageFormat kFormat, int kHeadDim>
struct CodeLayout {
  static constexpr int kRowBytes = kHeadDim * static_cast<int>(PageElementBits(kFormat)) / 8;
  static constexpr int kKeyBytes = kRowBytes / 4;
  static constexpr int kValueBytes = kRowBytes / 8;
  // Codes per byte; the one in the high bits is 16 channels further on.
  static constexpr int kByteCodes = 8 / static_cast<int>(PageElementBits(kFormat));

  // The channel of the code in the low bits of a row's byte.
  static constexpr int ByteChannel(int byte) {
    return kByteCodes == 1 ? byte : byte / 16 * 32 + byte % 16;
  }
  // The first of the four neighbouring channels that a lane multiplies in step `step` of 16
  // channels of the product with K; four bytes are kByteCodes steps.
  static constexpr int KeyChannel(int quarter, int step) {
    return ByteChannel(quarter * kKeyBytes + step / kByteCodes * 4) + step % kByteCodes * 16;
  }
  // The first of the two neighbouring channels that are a lane's rows of tile `tile` of 16 channels
  // of the product with V; two bytes are kByteCodes tiles.
  static constexpr int ValueChannel(int eighth, int tile) {
    return ByteChannel(eighth * kValueBytes + tile / kByteCodes * 2) + tile % kByteCodes * 16;
  }

  // Where byte `byte` of row `row` lies: 32 rows of K, then 32 of V. Chunks of 16 bytes are
  // permuted within 128 bytes, so that what a warp reads at once lies in all banks.
  static constexpr int Offset(int row, int byte) {
    return (row * kRowBytes + byte) ^ ((row & 7) << 4);
  }
};

}  // namespace kvship::cuda
