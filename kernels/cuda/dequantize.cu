#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tile_layout.h"
#include "kernels/weight_blocks.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 256;

// `first` is a multiple of 8: eight weights share their scale.
template <WeightFormat kFormat>
__device__ void Unpack(const std::byte* packed, size_t first, float (&x)[kChunkElements]) {
  constexpr WeightBlock kBlock = BlockOf(kFormat);
  const std::byte* block = packed + first / kBlock.num_weights * kBlock.num_bytes;
  const auto begin = static_cast<uint32_t>(first % kBlock.num_weights);
  WeightScale scale = {};
  if constexpr (IsQuantized(kFormat)) scale = ScaleOf<kFormat>(block, begin);
#pragma unroll
  for (int e = 0; e < kChunkElements; ++e) {
    if constexpr (kFormat == WeightFormat::kF32) {
      x[e] = reinterpret_cast<const float*>(block)[e];
    } else if constexpr (kFormat == WeightFormat::kF16) {
      x[e] = ToFloat(reinterpret_cast<const f16*>(block)[e]);
    } else if constexpr (kFormat == WeightFormat::kBf16) {
      x[e] = ToFloat(reinterpret_cast<const bf16*>(block)[e]);
    } else {
      x[e] = scale.scale * static_cast<float>(CodeOf<kFormat>(block, begin + e)) + scale.minimum;
    }
  }
}

template <WeightFormat kFormat, class T>
__global__ void __launch_bounds__(kThreads) DequantizeKernel(const DequantizeArgs args) {
  const size_t chunk = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (chunk >= args.num_weights / kChunkElements) return;
  float x[kChunkElements];
  Unpack<kFormat>(args.packed, chunk * kChunkElements, x);
  static_cast<uint4*>(args.out)[chunk] = PackChunk<T>(x);
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
    default:
      return WithQuantizedFormat(args.format, [&](auto format) {
        return LaunchFormat<decltype(format)::value>(stream, args);
      });
  }
}

}  // namespace kvship::cuda
