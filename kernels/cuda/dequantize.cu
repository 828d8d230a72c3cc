#include "kernels/cpu/quantized_blocks.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 256;

__device__ uint32_t ByteAt(const std::byte* at) { return static_cast<uint32_t>(*at); }
__device__ uint16_t WordAt(const std::byte* at) { return *reinterpret_cast<const uint16_t*>(at); }
__device__ float HalfAt(const std::byte* at) { return ToFloat(f16{WordAt(at)}); }

// Of the 32 weights of run `run` of a block: weight i is scale * code i + minimum.
struct RunScale {
  float scale;
  float minimum;
};
template <WeightFormat kFormat>
__device__ RunScale ScaleOf(const std::byte* block, int run) {
  const float scale = HalfAt(block);
  if constexpr (kFormat == WeightFormat::kQ8_0) return {scale, -128.0f * scale};
  if constexpr (kFormat == WeightFormat::kQ4_0) return {scale, -8.0f * scale};
  if constexpr (kFormat == WeightFormat::kQ4_1) return {scale, HalfAt(block + 2)};
  uint32_t run_scale = 0, run_minimum = 0;
  LoadSixBitPair(block + 4, run, &run_scale, &run_minimum);
  return {scale * static_cast<float>(run_scale),
          -HalfAt(block + 2) * static_cast<float>(run_minimum)};
}

// Code i of run `run` of a block.
template <WeightFormat kFormat>
__device__ uint32_t CodeOf(const std::byte* block, int run, int i) {
  if constexpr (kFormat == WeightFormat::kQ8_0) return ByteAt(block + 2 + i) ^ 0x80u;
  if constexpr (kFormat == WeightFormat::kQ4_0)
    return ByteAt(block + 2 + i % 16) >> i / 16 * 4 & 15;
  if constexpr (kFormat == WeightFormat::kQ4_1)
    return ByteAt(block + 4 + i % 16) >> i / 16 * 4 & 15;
  constexpr int kNibbles = kFormat == WeightFormat::kQ5_K ? 48 : 16;
  uint32_t code = ByteAt(block + kNibbles + run / 2 * 32 + i) >> run % 2 * 4 & 15;
  if constexpr (kFormat == WeightFormat::kQ5_K) code |= (ByteAt(block + 16 + i) >> run & 1) << 4;
  return code;
}

// Weight i of a block of 256; where its parts lie: kernels/cpu/dequantize.cc.
__device__ float WeightOfQ6_K(const std::byte* block, int i) {
  const int half = i / 128, j = i % 128 / 32, lane = i % 32;
  const uint32_t low = ByteAt(block + half * 64 + j % 2 * 32 + lane) >> j / 2 * 4 & 15;
  const uint32_t high = ByteAt(block + 128 + half * 32 + lane) >> 2 * j & 3;
  const auto scale = static_cast<int8_t>(ByteAt(block + 192 + i / 16));
  const int q = static_cast<int>(low | high << 4) - 32;
  return HalfAt(block + 208) * static_cast<float>(scale) * static_cast<float>(q);
}

// Products of scales and codes have few enough bits to be exact, so that a sum which is contracted
// with one is what it is without. `first` is a multiple of 8: eight weights are of one run.
template <WeightFormat kFormat>
__device__ void Unpack(const std::byte* packed, size_t first, float (&x)[kChunkElements]) {
  constexpr WeightBlock kBlock = BlockOf(kFormat);
  const std::byte* block = packed + first / kBlock.num_weights * kBlock.num_bytes;
  const int begin = static_cast<int>(first % kBlock.num_weights);
  RunScale scale = {};
  if constexpr (HasByteForm(kFormat)) scale = ScaleOf<kFormat>(block, begin / 32);
#pragma unroll
  for (int e = 0; e < kChunkElements; ++e) {
    if constexpr (kFormat == WeightFormat::kF32) {
      x[e] = reinterpret_cast<const float*>(block)[e];
    } else if constexpr (kFormat == WeightFormat::kF16) {
      x[e] = HalfAt(block + 2 * e);
    } else if constexpr (kFormat == WeightFormat::kBf16) {
      x[e] = ToFloat(bf16{WordAt(block + 2 * e)});
    } else if constexpr (kFormat == WeightFormat::kQ6_K) {
      x[e] = WeightOfQ6_K(block, begin + e);
    } else {
      const uint32_t code = CodeOf<kFormat>(block, begin / 32, begin % 32 + e);
      x[e] = scale.scale * static_cast<float>(code) + scale.minimum;
    }
  }
}

template <WeightFormat kFormat, class T>
__global__ void __launch_bounds__(kThreads) DequantizeKernel(const DequantizeArgs args) {
  const size_t chunk = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (chunk >= args.num_weights / kChunkElements) return;
  float x[kChunkElements];
  Unpack<kFormat>(args.packed, chunk * kChunkElements, x);
  static_cast<uint4*>(args.out)[chunk] =
      make_uint4(PackPair<T>(x[0], x[1]), PackPair<T>(x[2], x[3]), PackPair<T>(x[4], x[5]),
                 PackPair<T>(x[6], x[7]));
}

template <WeightFormat kFormat>
absl::Status LaunchFormat(cudaStream_t stream, const DequantizeArgs& args) {
  const size_t chunks = args.num_weights / kChunkElements;
  return WithElementType(args.dtype, [&](auto element) {
    return Launch(stream, dim3((chunks + kThreads - 1) / kThreads), dim3(kThreads), 0,
                  DequantizeKernel<kFormat, decltype(element)>, args);
  });
}

}  // namespace

absl::Status Dequantize(cudaStream_t stream, const DequantizeArgs& args) {
  const size_t block = BlockOf(args.format).num_weights;
  if (args.num_weights < 1 || args.num_weights % kChunkElements != 0 ||
      args.num_weights % block != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_weights ", args.num_weights, ": wanted a multiple of 8 and of the ",
                     block, " in a block of ", WeightFormatName(args.format)));
  }
  switch (args.format) {
    case WeightFormat::kF32: return LaunchFormat<WeightFormat::kF32>(stream, args);
    case WeightFormat::kF16: return LaunchFormat<WeightFormat::kF16>(stream, args);
    case WeightFormat::kBf16: return LaunchFormat<WeightFormat::kBf16>(stream, args);
    case WeightFormat::kQ8_0: return LaunchFormat<WeightFormat::kQ8_0>(stream, args);
    case WeightFormat::kQ4_0: return LaunchFormat<WeightFormat::kQ4_0>(stream, args);
    case WeightFormat::kQ4_1: return LaunchFormat<WeightFormat::kQ4_1>(stream, args);
    case WeightFormat::kQ4_K: return LaunchFormat<WeightFormat::kQ4_K>(stream, args);
    case WeightFormat::kQ5_K: return LaunchFormat<WeightFormat::kQ5_K>(stream, args);
    case WeightFormat::kQ6_K: return LaunchFormat<WeightFormat::kQ6_K>(stream, args);
  }
  return absl::InvalidArgumentError("format: wanted one of a GGUF file");
}

}  // namespace kvship::cuda
