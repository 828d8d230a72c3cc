// What a warp of quantized attention multiplies at a time: a quantized page, or half a page of the
// tail. Device code, for quantized_attention.cu.
//
// Tokens are the rows of the product with K and the queries its columns: a group of up to 8 query
// heads fills an m16n8k16 product. The result, transposed, is the operand B of the product with V,
// whose rows are channels. Lanes take channels as CodeLayout says, in both kinds of units.
#pragma once

#include "kernels/cuda/page_splits.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/quantized_codes.cuh"
#include "kernels/cuda/quantized_layout.h"
#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {

// q as operands B, by tiles of 8 queries and steps of 16 channels.
template <int kHeadDim, int kQueryTiles>
using QueryOperands = uint32_t[kQueryTiles][kHeadDim / 16][2];
// [tokens, queries] of a unit.
template <int kTiles, int kQueryTiles>
using Scores = float[kTiles][kQueryTiles][4];
template <int kTiles, int kQueryTiles>
using Weights = uint32_t[kTiles][kQueryTiles][2];
// [channels, queries].
template <int kHeadDim, int kQueryTiles>
using Outputs = float[kHeadDim / 16][kQueryTiles][4];

// A page of codes. Each becomes a number, minimum + code * scale rounded to T, in two instructions
// a pair: the scales of K are those of the lane's channels, the same for every token, and the
// scales of V lie token beside token, as the pairs do. Scales in the queries and in the weights
// would save one of the two but have to be multiplied there, and would be rounded where their error
// is that of the whole range and not of the number.
template <class T, PageFormat kFormat, int kHeadDim>
struct QuantizedUnit {
  using Layout = CodeLayout<kFormat, kHeadDim>;
  static constexpr int kTiles = static_cast<int>(kPageTokens) / 16;
  static constexpr int kPairs = 2 * Layout::kByteCodes;  // in two halves of a word
  static constexpr int kPerUnit = Codes<T, kFormat>::kPerUnit;
  static constexpr int kScales = static_cast<int>(PageScalesOffset(kFormat, kHeadDim));
  static constexpr int kKeyMinima = kScales + 2 * kHeadDim;
  static constexpr int kValueScales = kScales + 4 * kHeadDim;
  static constexpr int kValueMinima =
      kValueScales + 2 * static_cast<int>(kPageTokens * kHeadDim / kValueGroup);
  static constexpr int kBytes = static_cast<int>(PageBytes(kFormat, kHeadDim));

  const std::byte* stage;

  // Starts the copy of a page, of which the first `num_tokens` count. The others' scales and minima
  // of V become zeros, and so their values: they may hold anything, and zero times NaN is NaN.
  __device__ static void Start(const std::byte* page, int num_tokens, int lane, std::byte* stage) {
#pragma unroll
    for (int i = lane * kChunkBytes; i < kBytes; i += kWarpThreads * kChunkBytes) {
      int place = i, num_bytes = kChunkBytes;
      if (i < kScales) {
        place = Layout::Offset(i / Layout::kRowBytes, i % Layout::kRowBytes);
      } else if (kFormat != PageFormat::kFp8 && i >= kValueScales) {
        const int token = (i - kValueScales) / 2 % static_cast<int>(kPageTokens);
        num_bytes = min(max(2 * (num_tokens - token), 0), kChunkBytes);
      }
      CopyPartAsync(stage + place, page + i, num_bytes);
    }
  }

  // fp8 has one scale for all keys and one for all values: scores and weights take those.
  __device__ float KeyScale() const { return PageScale(0); }
  __device__ float ValueScale() const { return PageScale(1); }

  template <int kQueryTiles>
  __device__ void MultiplyKeys(const QueryOperands<kHeadDim, kQueryTiles>& q, int lane,
                               Scores<kTiles, kQueryTiles>& scores) const {
    constexpr int kWords = Layout::kKeyBytes / 4, kAtOnce = kWords < 4 ? kWords : 4;
    const int token = lane >> 2, quarter = lane & 3;
#pragma unroll
    for (int first = 0; first < kWords; first += kAtOnce) {
      uint32_t words[2 * kTiles][kAtOnce];  // of every eighth token
#pragma unroll
      for (int i = 0; i < 2 * kTiles; ++i) {
        LoadWords(words[i],
                  stage + Layout::Offset(token + 8 * i, quarter * Layout::kKeyBytes + first * 4));
      }
#pragma unroll
      for (int word = 0; word < kAtOnce; ++word) {
        uint32_t codes[2 * kTiles][kPairs];
#pragma unroll
        for (int i = 0; i < 2 * kTiles; ++i) {
          Codes<T, kFormat>::Unpack(__byte_perm(words[i][word], 0, 0x3120), codes[i]);
        }
#pragma unroll
        for (int part = 0; part < Layout::kByteCodes; ++part) {
          const int step = (first + word) * Layout::kByteCodes + part;
          uint32_t scales[2], minima[2];
          LoadKeyScales(Layout::KeyChannel(quarter, step), scales, minima);
#pragma unroll
          for (int t = 0; t < kTiles; ++t) {
            uint32_t a[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              a[i] = Number(codes[2 * t + i % 2][2 * part + i / 2], scales[i / 2], minima[i / 2]);
            }
#pragma unroll
            for (int n = 0; n < kQueryTiles; ++n) {
              MultiplyAdd<T>(scores[t][n], a, q[n][step][0], q[n][step][1]);
            }
          }
        }
      }
    }
  }

  template <int kQueryTiles>
  __device__ void MultiplyValues(const Weights<kTiles, kQueryTiles>& weights, int lane,
                                 Outputs<kHeadDim, kQueryTiles>& out) const {
    constexpr int kWords = Layout::kValueBytes / 4;
    const int eighth = lane >> 2;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int token = t * 16 + AccumulatorColumn(lane);
      uint32_t words[2][2][kWords];  // of two tokens, and of the two 8 further
      uint32_t scales[2], minima[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int row = static_cast<int>(kPageTokens) + token + 8 * i + e;
          LoadWords(words[i][e], stage + Layout::Offset(row, eighth * Layout::kValueBytes));
        }
        LoadValueScales(eighth * (kHeadDim / 8) / static_cast<int>(kValueGroup), token + 8 * i,
                        scales[i], minima[i]);
      }
#pragma unroll
      for (int half = 0; half < 2 * kWords; ++half) {
        const unsigned selector = half % 2 == 0 ? 0x5410 : 0x7632;
        uint32_t codes[2][kPairs];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Codes<T, kFormat>::Unpack(
              __byte_perm(words[i][0][half / 2], words[i][1][half / 2], selector), codes[i]);
        }
#pragma unroll
        for (int part = 0; part < Layout::kByteCodes; ++part) {
          uint32_t a[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            a[i] = Number(codes[i / 2][2 * part + i % 2], scales[i / 2], minima[i / 2]);
          }
#pragma unroll
          for (int n = 0; n < kQueryTiles; ++n) {
            MultiplyAdd<T>(out[half * Layout::kByteCodes + part][n], a, weights[t][n][0],
                           weights[t][n][1]);
          }
        }
      }
    }
  }

 private:
  __device__ float PageScale(int index) const {
    if constexpr (kFormat != PageFormat::kFp8) return 1.0f;
    return reinterpret_cast<const float*>(stage + kScales)[index] * kPerUnit;
  }
  __device__ static uint32_t Number(uint32_t codes, uint32_t scales, uint32_t minima) {
    if constexpr (kFormat == PageFormat::kFp8) return codes;
    return MultiplyAddPair<T>(codes, scales, minima);
  }
  // Of the four channels from `channel`.
  __device__ void LoadKeyScales(int channel, uint32_t (&scales)[2], uint32_t (&minima)[2]) const {
    if constexpr (kFormat == PageFormat::kFp8) return;
    uint32_t scale_words[2], minimum_words[2];
    LoadWords(scale_words, stage + kScales + 2 * channel);
    LoadWords(minimum_words, stage + kKeyMinima + 2 * channel);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      scales[i] = ScalePair<T, kPerUnit>(scale_words[i]);
      minima[i] = ScalePair<T, 1>(minimum_words[i]);
    }
  }
  // Of tokens `token` and the next in channels of group `group`.
  __device__ void LoadValueScales(int group, int token, uint32_t& scales, uint32_t& minima) const {
    if constexpr (kFormat == PageFormat::kFp8) return;
    const int offset = 2 * (group * static_cast<int>(kPageTokens) + token);
    uint32_t word[1];
    LoadWords(word, stage + kValueScales + offset);
    scales = ScalePair<T, kPerUnit>(word[0]);
    LoadWords(word, stage + kValueMinima + offset);
    minima = ScalePair<T, 1>(word[0]);
  }
};

// Half a page of numbers of T, as StartUnit() copies it. Its channels are taken in the order of
// codes, since the queries have it.
template <class T, PageFormat kFormat, int kHeadDim>
struct TailUnit {
  using Layout = CodeLayout<kFormat, kHeadDim>;
  static constexpr int kTiles = kUnitTokens / 16;
  static constexpr int kBytes = 2 * kUnitTokens * kHeadDim * static_cast<int>(sizeof(T));

  const std::byte* stage;

  __device__ float KeyScale() const { return 1.0f; }
  __device__ float ValueScale() const { return 1.0f; }

  template <int kQueryTiles>
  __device__ void MultiplyKeys(const QueryOperands<kHeadDim, kQueryTiles>& q, int lane,
                               Scores<kTiles, kQueryTiles>& scores) const {
    const int token = lane >> 2, quarter = lane & 3;
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      const int channel = Layout::KeyChannel(quarter, step);
      uint32_t upper[2], lower[2];
      LoadWords(upper, At(token, channel));
      LoadWords(lower, At(token + 8, channel));
      const uint32_t a[4] = {upper[0], lower[0], upper[1], lower[1]};
#pragma unroll
      for (int n = 0; n < kQueryTiles; ++n) {
        MultiplyAdd<T>(scores[0][n], a, q[n][step][0], q[n][step][1]);
      }
    }
  }

  template <int kQueryTiles>
  __device__ void MultiplyValues(const Weights<kTiles, kQueryTiles>& weights, int lane,
                                 Outputs<kHeadDim, kQueryTiles>& out) const {
    const int row = kUnitTokens + AccumulatorColumn(lane), eighth = lane >> 2;
#pragma unroll
    for (int tile = 0; tile < kHeadDim / 16; ++tile) {
      const int channel = Layout::ValueChannel(eighth, tile);
      uint32_t a[4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t even[1], odd[1];
        LoadWords(even, At(row + 8 * i, channel));
        LoadWords(odd, At(row + 8 * i + 1, channel));
        a[2 * i] = __byte_perm(even[0], odd[0], 0x5410);
        a[2 * i + 1] = __byte_perm(even[0], odd[0], 0x7632);
      }
#pragma unroll
      for (int n = 0; n < kQueryTiles; ++n) {
        MultiplyAdd<T>(out[tile][n], a, weights[0][n][0], weights[0][n][1]);
      }
    }
  }

 private:
  // Rows of K, then of V.
  __device__ const std::byte* At(int row, int channel) const {
    const int offset =
        TileOffset(kHeadDim, row, channel / kChunkElements) + channel % kChunkElements;
    return stage + offset * static_cast<int>(sizeof(T));
  }
};

}  // namespace kvship::cuda
