// A kernel that gathers tokens into pages of another format than theirs: the codes and scales that
// docs/wire.md describes, by the arithmetic of kernels/cpu/quantize-inl.h in its order, or numbers
// of another float type. Device code, for gather_pages.cu.
#pragma once

#include <type_traits>

#include "base/float16.h"
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/gather_pages.h"
#include "kernels/cuda/page_tokens.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"
#include "kernels/page_layout.h"

namespace kvship::cuda {

inline constexpr int kQuantizeThreads = 256;

// The keys or the values that go onto one page.
template <class T>
struct PageHalf {
  const T* rows;             // [T, D] of the head
  const int32_t* positions;  // [num_tokens]
  int num_tokens;
  int head_dim;
  std::byte* codes;
  std::byte* scales;  // the first that are these keys' or values'

  __device__ int row_chunks() const { return head_dim / kChunkElements; }
  // Chunk `i` of the page's rows, one after the other; zeros for tokens that are not there.
  __device__ uint4 LoadChunk(int i) const {
    const int token = i / row_chunks();
    if (token >= num_tokens) return make_uint4(0, 0, 0, 0);
    const T* row = rows + static_cast<size_t>(positions[token]) * head_dim;
    return *reinterpret_cast<const uint4*>(row + i % row_chunks() * kChunkElements);
  }
};

struct Range {
  float low;
  float high;

  __device__ void Take(float x) {
    low = MinOrNan(low, x);
    high = MaxOrNan(high, x);
  }
};
// Of four neighbouring lanes.
__device__ inline Range QuadRange(Range range) {
#pragma unroll
  for (int lanes = 1; lanes <= 2; lanes *= 2) {
    range.low = MinOrNan(range.low, __shfl_xor_sync(0xffffffffu, range.low, lanes));
    range.high = MaxOrNan(range.high, __shfl_xor_sync(0xffffffffu, range.high, lanes));
  }
  return range;
}

// The nearest bf16 that is not above x, and the nearest that is not below.
__device__ inline bf16 RoundDown(float x) {
  bf16 out = ToBf16(x);
  if (!(ToFloat(out) > x)) return out;
  if (out.bits == 0) return {0x8001};
  out.bits = static_cast<uint16_t>(out.bits & 0x8000 ? out.bits + 1 : out.bits - 1);
  return out;
}
__device__ inline bf16 RoundUp(float x) {
  return {static_cast<uint16_t>(RoundDown(-x).bits ^ 0x8000)};
}

// code = (x - minimum) * factor.
struct CodeScale {
  bf16 scale;
  bf16 minimum;
  float factor;
};
template <PageFormat kFormat>
inline constexpr float kMostCode = kFormat == PageFormat::kInt8 ? 255.0f : 15.0f;

template <PageFormat kFormat>
__device__ CodeScale MakeCodeScale(const Range& range) {
  CodeScale out;
  out.minimum = RoundDown(range.low);
  out.scale = RoundUp((range.high - ToFloat(out.minimum)) / kMostCode<kFormat>);
  const float scale = ToFloat(out.scale);
  out.factor = scale > 0.0f ? 1.0f / scale : 0.0f;
  return out;
}

// fmaxf first: of NaN it makes 0.
template <PageFormat kFormat>
__device__ uint32_t Code(float x, float minimum, float factor) {
  const float code = fminf(fmaxf((x - minimum) * factor, 0.0f), kMostCode<kFormat>);
  return static_cast<uint32_t>(__float2int_rn(code));
}

// Stores the codes of chunk `i`, eight bytes of them (`low` the first four). Of int4 each of four
// lanes has a quarter of 32 channels, and the upper half of these lies in the high bits.
template <class T, PageFormat kFormat>
__device__ void StoreCodes(const PageHalf<T>& half, int i, uint32_t low, uint32_t high) {
  if constexpr (kFormat == PageFormat::kInt4) {
    low |= __shfl_xor_sync(0xffffffffu, low, 2) << 4;
    high |= __shfl_xor_sync(0xffffffffu, high, 2) << 4;
    const int group = i / 4, quarter = i % 4;
    if (quarter < 2) {
      *reinterpret_cast<uint2*>(half.codes + group * 16 + quarter * 8) = make_uint2(low, high);
    }
  } else {
    *reinterpret_cast<uint2*>(half.codes + i * kChunkElements) = make_uint2(low, high);
  }
}

__device__ inline uint32_t JoinBytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return a | b << 8 | c << 16 | d << 24;
}

// K: a scale for each channel, over the page's tokens. Shared memory: see QuantizeSharedBytes().
template <class T, PageFormat kFormat>
__device__ void QuantizeKeys(const PageHalf<T>& keys, std::byte* shared) {
  const int head_dim = keys.head_dim;
  // Rows are 32 bytes further apart than they are long: eight pairs of four rows lie in all banks.
  const int row_pairs = head_dim / 2 + 8;
  float2* codings = reinterpret_cast<float2*>(shared);  // minimum and factor of a channel
  uint32_t* tile = reinterpret_cast<uint32_t*>(codings + head_dim);
  const int num_chunks = static_cast<int>(kPageTokens) * keys.row_chunks();
  for (int i = threadIdx.x; i < num_chunks; i += kQuantizeThreads) {
    const int token = i / keys.row_chunks(), chunk = i % keys.row_chunks();
    *reinterpret_cast<uint4*>(tile + token * row_pairs + chunk * 4) = keys.LoadChunk(i);
  }
  __syncthreads();
  // Four lanes share a pair of channels, and take turns with the tokens.
  for (int i = threadIdx.x; i < 2 * head_dim; i += kQuantizeThreads) {
    const int pair = i / 4, turn = i % 4;
    Range even = {INFINITY, -INFINITY}, odd = even;
    for (int token = turn; token < keys.num_tokens; token += 4) {
      const FloatPair x = UnpackPair<T>(tile[token * row_pairs + pair]);
      even.Take(x.low);
      odd.Take(x.high);
    }
    even = QuadRange(even);
    odd = QuadRange(odd);
    if (turn >= 2) continue;
    const int channel = 2 * pair + turn;
    // Number by number: a choice between two structs takes them to memory.
    const Range own = {turn == 0 ? even.low : odd.low, turn == 0 ? even.high : odd.high};
    const CodeScale coding = MakeCodeScale<kFormat>(own);
    bf16* scales = reinterpret_cast<bf16*>(keys.scales);
    scales[channel] = coding.scale;
    scales[head_dim + channel] = coding.minimum;
    codings[channel] = make_float2(ToFloat(coding.minimum), coding.factor);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < num_chunks; i += kQuantizeThreads) {
    const int token = i / keys.row_chunks(), chunk = i % keys.row_chunks();
    float x[kChunkElements];
    UnpackChunk<T>(*reinterpret_cast<const uint4*>(tile + token * row_pairs + chunk * 4), x);
    uint32_t codes[kChunkElements];
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) {
      const float2 coding = codings[chunk * kChunkElements + e];
      codes[e] = token < keys.num_tokens ? Code<kFormat>(x[e], coding.x, coding.y) : 0;
    }
    StoreCodes<T, kFormat>(keys, i, JoinBytes(codes[0], codes[1], codes[2], codes[3]),
                           JoinBytes(codes[4], codes[5], codes[6], codes[7]));
  }
}

// V: a scale for each token and 32 channels, which are four neighbouring lanes'. The zeros of
// tokens that are not there make scales and codes of zero.
template <class T, PageFormat kFormat>
__device__ void QuantizeValues(const PageHalf<T>& values) {
  const int num_chunks = static_cast<int>(kPageTokens) * values.row_chunks();
  for (int i = threadIdx.x; i < num_chunks; i += kQuantizeThreads) {
    const int token = i / values.row_chunks();
    float x[kChunkElements];
    UnpackChunk<T>(values.LoadChunk(i), x);
    Range range = {x[0], x[0]};
#pragma unroll
    for (int e = 1; e < kChunkElements; ++e) range.Take(x[e]);
    const CodeScale coding = MakeCodeScale<kFormat>(QuadRange(range));
    uint32_t codes[kChunkElements];
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) {
      codes[e] = Code<kFormat>(x[e], ToFloat(coding.minimum), coding.factor);
    }
    StoreCodes<T, kFormat>(values, i, JoinBytes(codes[0], codes[1], codes[2], codes[3]),
                           JoinBytes(codes[4], codes[5], codes[6], codes[7]));
    if (i % 4 != 0) continue;
    const int num_scales = static_cast<int>(kPageTokens) * values.head_dim / kValueGroup;
    const int slot = i % values.row_chunks() / 4 * static_cast<int>(kPageTokens) + token;
    bf16* scales = reinterpret_cast<bf16*>(values.scales);
    scales[slot] = coding.scale;
    scales[num_scales + slot] = coding.minimum;
  }
}

// The e4m3 numbers nearest to two numbers, in the low bytes of the halves. A f16 is made first: of
// its bits e4m3 has the upper three of the mantissa, and 2^-8 re-bases the exponent.
__device__ inline uint32_t Fp8Magnitudes(float x, float y) {
  const uint32_t halves =
      PackPair<f16>(fminf(fabsf(x), 448.0f) * 0x1p-8f, fminf(fabsf(y), 448.0f) * 0x1p-8f);
  return (halves + 0x003f003fu + (halves >> 7 & 0x00010001u)) >> 7 & 0x00ff00ffu;
}

// Keys or values: one scale for all, the largest magnitude / 448.
template <class T>
__device__ void QuantizeFp8(const PageHalf<T>& half, std::byte* shared) {
  const int num_chunks = static_cast<int>(kPageTokens) * half.row_chunks();
  float largest = 0.0f;
  for (int i = threadIdx.x; i < num_chunks; i += kQuantizeThreads) {
    float x[kChunkElements];
    UnpackChunk<T>(half.LoadChunk(i), x);
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) largest = fmaxf(largest, fabsf(x[e]));
  }
#pragma unroll
  for (int lanes = 1; lanes < kWarpThreads; lanes *= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
  }
  float* warps = reinterpret_cast<float*>(shared);
  if (threadIdx.x % kWarpThreads == 0) warps[threadIdx.x / kWarpThreads] = largest;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kQuantizeThreads / kWarpThreads; ++i) largest = fmaxf(largest, warps[i]);
  const float scale = largest < INFINITY ? largest / 448.0f : 1.0f;
  const float factor = scale > 0.0f ? 1.0f / scale : 0.0f;
  if (threadIdx.x == 0) *reinterpret_cast<float*>(half.scales) = scale;
  for (int i = threadIdx.x; i < num_chunks; i += kQuantizeThreads) {
    const bool there = i / half.row_chunks() < half.num_tokens;
    const uint4 chunk = half.LoadChunk(i);
    const uint32_t pairs[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
    uint32_t codes[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const FloatPair x = UnpackPair<T>(pairs[e]);
      codes[e] = Fp8Magnitudes(x.low * factor, x.high * factor) | (pairs[e] >> 8 & 0x00800080u);
      if (!there) codes[e] = 0;
    }
    StoreCodes<T, PageFormat::kFp8>(half, i, __byte_perm(codes[0], codes[1], 0x6420),
                                    __byte_perm(codes[2], codes[3], 0x6420));
  }
}

// Keys or values in a float type: 16 bytes of a page are four numbers of f32, or eight.
template <class T, PageFormat kFormat>
__device__ void ConvertElements(const PageHalf<T>& half) {
  using Element = std::conditional_t<kFormat == PageFormat::kF16, f16, bf16>;
  uint4* page = reinterpret_cast<uint4*>(half.codes);
  const int num_chunks = static_cast<int>(kPageTokens) * half.row_chunks();
  for (int i = threadIdx.x; i < num_chunks; i += kQuantizeThreads) {
    float x[kChunkElements];
    UnpackChunk<T>(half.LoadChunk(i), x);
    if constexpr (kFormat == PageFormat::kF32) {
      page[2 * i] = make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                               __float_as_uint(x[3]));
      page[2 * i + 1] = make_uint4(__float_as_uint(x[4]), __float_as_uint(x[5]),
                                   __float_as_uint(x[6]), __float_as_uint(x[7]));
    } else {
      page[i] = PackChunk<Element>(x);
    }
  }
}

inline size_t QuantizeSharedBytes(size_t head_dim) {
  return head_dim * sizeof(float2) + kPageTokens * (head_dim / 2 + 8) * sizeof(uint32_t);
}

// As many as fill a multiprocessor, with 32 registers a thread.
inline constexpr int kQuantizeBlocks = 2048 / kQuantizeThreads;

// A block makes the keys (blockIdx.y 0) or the values (1) of page blockIdx.x.
template <class T, PageFormat kFormat>
__global__ void __launch_bounds__(kQuantizeThreads, kQuantizeBlocks)
    EncodeKernel(const GatherPagesArgs args) {
  WaitForTheKernelBefore();
  const PageTokens own = TokensOfPage(args, blockIdx.x);
  if (own.num_tokens == 0) return;
  const bool is_value = blockIdx.y == 1;
  std::byte* page = args.pages + blockIdx.x * PageBytes(kFormat, args.head_dim);
  std::byte* scales = page + PageScalesOffset(kFormat, args.head_dim);
  PageHalf<T> half;
  half.rows =
      static_cast<const T*>(is_value ? args.values : args.keys) + own.head * args.head_stride;
  half.positions = own.positions;
  half.num_tokens = own.num_tokens;
  half.head_dim = static_cast<int>(args.head_dim);
  half.codes = is_value ? page + PageValuesOffset(kFormat, args.head_dim) : page;
  if constexpr (!IsQuantized(kFormat)) {
    ConvertElements<T, kFormat>(half);
  } else if constexpr (kFormat == PageFormat::kFp8) {
    half.scales = is_value ? scales + sizeof(float) : scales;
    QuantizeFp8<T>(half, DynamicSharedMemory());
    if (threadIdx.x == 0 && !is_value) *reinterpret_cast<uint2*>(scales + 8) = make_uint2(0, 0);
  } else if (is_value) {
    half.scales = scales + 2 * args.head_dim * sizeof(bf16);
    QuantizeValues<T, kFormat>(half);
  } else {
    half.scales = scales;
    QuantizeKeys<T, kFormat>(half, DynamicSharedMemory());
  }
}

}  // namespace kvship::cuda
