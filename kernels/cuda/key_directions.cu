#include <cmath>

#include "base/status_macros.h"
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/key_directions.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 256;
// Keys whose directions a block adds up: its sums, written and read once, are a hundredth of that.
constexpr int kPartTokens = 512;
// Keeps the direction of a key of zeros at zero instead of dividing by it.
constexpr float kLeastNorm = 1e-12f;

struct Params {
  KeyDirectionsArgs args;
  float* parts;   // [H, num_parts, D] sums of directions
  float* anchor;  // [H, D] of length 1
  int num_parts;
};

// A key lies in kHeadDim / 8 neighbouring threads, a chunk in each.
template <class T, int kHeadDim>
struct KeyChunk {
  static constexpr int kKeyThreads = kHeadDim / kChunkElements;
  float x[kChunkElements];

  // Zeros past the last key.
  __device__ void Load(const KeyDirectionsArgs& args, size_t head, size_t token) {
    uint4 chunk = make_uint4(0, 0, 0, 0);
    if (token < args.num_tokens) {
      const T* key =
          static_cast<const T*>(args.keys) + head * args.key_head_stride + token * kHeadDim;
      chunk = reinterpret_cast<const uint4*>(key)[threadIdx.x % kKeyThreads];
    }
    UnpackChunk<T>(chunk, x);
  }

  // Over the key's threads, for each of them. Whole warps call it.
  __device__ static float Sum(float own) {
#pragma unroll
    for (int step = kKeyThreads / 2; step > 0; step /= 2) {
      own += __shfl_xor_sync(0xffffffffu, own, step);
    }
    return own;
  }
  __device__ float InverseNorm() const {
    float squares = 0.0f;
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) squares += x[e] * x[e];
    return 1.0f / fmaxf(sqrtf(Sum(squares)), kLeastNorm);
  }
};

// A block adds up the directions of one part of one head's keys.
template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads) PartsKernel(const Params p) {
  constexpr int kKeyThreads = KeyChunk<T, kHeadDim>::kKeyThreads;
  constexpr int kKeys = kThreads / kKeyThreads;  // at a time
  __shared__ float sums[kKeys][kHeadDim];
  WaitForTheKernelBefore();
  const int own_key = threadIdx.x / kKeyThreads, chunk = threadIdx.x % kKeyThreads;
  float own[kChunkElements] = {};
#pragma unroll 4
  for (int i = 0; i < kPartTokens; i += kKeys) {
    KeyChunk<T, kHeadDim> key;
    key.Load(p.args, blockIdx.y, static_cast<size_t>(blockIdx.x) * kPartTokens + i + own_key);
    const float inverse = key.InverseNorm();
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) own[e] += key.x[e] * inverse;
  }
#pragma unroll
  for (int e = 0; e < kChunkElements; ++e) sums[own_key][chunk * kChunkElements + e] = own[e];
  __syncthreads();
  if (threadIdx.x >= kHeadDim) return;
  float sum = 0.0f;
  for (int key = 0; key < kKeys; ++key) sum += sums[key][threadIdx.x];
  const size_t part = static_cast<size_t>(blockIdx.y) * p.num_parts + blockIdx.x;
  p.parts[part * kHeadDim + threadIdx.x] = sum;
}

// A block of D threads merges one head's parts. The mean's length does not matter to a cosine.
__global__ void AnchorKernel(const Params p) {
  WaitForTheKernelBefore();
  const float* parts = p.parts + static_cast<size_t>(blockIdx.x) * p.num_parts * blockDim.x;
  double sum = 0.0;
#pragma unroll 8
  for (int part = 0; part < p.num_parts; ++part) {
    sum += static_cast<double>(parts[static_cast<size_t>(part) * blockDim.x + threadIdx.x]);
  }
  const auto element = static_cast<float>(sum);
  const float length = sqrtf(BlockSum(element * element));
  p.anchor[blockIdx.x * blockDim.x + threadIdx.x] = element / fmaxf(length, kLeastNorm);
}

template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads) CosineKernel(const Params p) {
  constexpr int kKeyThreads = KeyChunk<T, kHeadDim>::kKeyThreads;
  WaitForTheKernelBefore();
  const size_t token = (static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x) / kKeyThreads;
  const int chunk = threadIdx.x % kKeyThreads;
  KeyChunk<T, kHeadDim> key;
  key.Load(p.args, blockIdx.y, token);
  const float* anchor = p.anchor + blockIdx.y * kHeadDim + chunk * kChunkElements;
  float product = 0.0f;
#pragma unroll
  for (int e = 0; e < kChunkElements; ++e) product += key.x[e] * anchor[e];
  product = key.Sum(product);
  const float cosine = product * key.InverseNorm();
  if (chunk == 0 && token < p.args.num_tokens) {
    p.args.scores[blockIdx.y * p.args.scores_row_stride + token] = -cosine;
  }
}

size_t NumParts(size_t num_tokens) { return (num_tokens + kPartTokens - 1) / kPartTokens; }

}  // namespace

size_t KeyDirectionsWorkspaceBytes(size_t num_kv_heads, size_t num_tokens, size_t head_dim) {
  return num_kv_heads * (NumParts(num_tokens) + 1) * head_dim * sizeof(float);
}

absl::Status ScoreKeyDirections(cudaStream_t stream, const KeyDirectionsArgs& args) {
  if (args.num_kv_heads < 1 || args.num_tokens < 1 || args.scores_row_stride < args.num_tokens ||
      args.key_head_stride < args.num_tokens * args.head_dim) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_kv_heads ", args.num_kv_heads, ", num_tokens ", args.num_tokens, ", key_head_stride ",
        args.key_head_stride, ", scores_row_stride ", args.scores_row_stride,
        ": wanted at least 1 of each, and rows that hold them"));
  }
  Params p = {};
  p.args = args;
  p.num_parts = static_cast<int>(NumParts(args.num_tokens));
  p.anchor = static_cast<float*>(args.workspace);
  p.parts = p.anchor + args.num_kv_heads * args.head_dim;
  return WithElementType(args.dtype, [&](auto element) {
    using T = decltype(element);
    return WithHeadDim(args.head_dim, [&](auto head_dim) -> absl::Status {
      const unsigned heads = args.num_kv_heads;
      RETURN_IF_ERROR(LaunchEarly(stream, dim3(p.num_parts, heads), dim3(kThreads), 0,
                                  PartsKernel<T, head_dim()>, p));
      RETURN_IF_ERROR(LaunchEarly(stream, dim3(heads), dim3(head_dim()), 0, AnchorKernel, p));
      const size_t threads = args.num_tokens * head_dim() / kChunkElements;
      return LaunchEarly(stream, dim3((threads + kThreads - 1) / kThreads, heads), dim3(kThreads),
                         0, CosineKernel<T, head_dim()>, p);
    });
  });
}

}  // namespace kvship::cuda
