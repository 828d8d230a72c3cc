#include <cmath>

#include "base/status_macros.h"
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/expected_scores.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSide = 16;          // threads of a block that multiplies, each way
constexpr int kTileKeys = 64;      // four for each of 16 threads
constexpr int kSlabRows = 32;      // of a covariance, in shared memory at a time
constexpr int kRowThreads = 1024;  // of a block that takes a row of logits

// Of a query head's logits: the largest, and one over the sum of exp(logit - largest).
struct RowShare {
  float largest;
  float share;
};

struct Params {
  ExpectedScoresArgs args;
  RowShare* shares;  // [Hq]
  int group;         // query heads of a KV head
  float of_mean;     // 1 / sqrt(D)
  float of_product;  // 1 / (2 D)
};

template <int kHeadDim>
struct Shape {
  static constexpr int kVectors = kHeadDim / (kSide * 4);  // of four columns, of a thread
  static constexpr int kKeyFloats = kHeadDim * kTileKeys;
  static constexpr int kSlabFloats = kSlabRows * kHeadDim;
  static constexpr size_t kSharedBytes = (kKeyFloats + kSlabFloats) * sizeof(float);
};

__device__ float4 LoadFour(const float* from) { return *reinterpret_cast<const float4*>(from); }

// One tile of keys as columns, keys [D, kTileKeys]; those past the last as zeros.
template <class T, int kHeadDim>
__device__ void LoadKeys(const Params& p, size_t first, float* keys) {
  constexpr int kChunks = kHeadDim / kChunkElements;
  const T* from = static_cast<const T*>(p.args.keys) + blockIdx.y * p.args.head_stride;
  for (int i = threadIdx.x; i < kTileKeys * kChunks; i += kThreads) {
    const int key = i % kTileKeys, chunk = i / kTileKeys;
    float x[kChunkElements] = {};
    if (first + key < p.args.num_tokens) {
      UnpackChunk<T>(reinterpret_cast<const uint4*>(from + (first + key) * kHeadDim)[chunk], x);
    }
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e)
      keys[(chunk * kChunkElements + e) * kTileKeys + key] = x[e];
  }
}

// The products of a query head's covariance with a thread's four keys, in its columns: those of
// vector v begin at (v * kSide + thread_column) * 4.
template <int kHeadDim>
struct TileProducts {
  static constexpr int kVectors = Shape<kHeadDim>::kVectors;
  float sums[4][kVectors][4];

  __device__ void Multiply(const float* covariance, const float* keys, float* slab) {
    const int thread_key = threadIdx.x / kSide * 4, thread_column = threadIdx.x % kSide * 4;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[k][v][e] = 0.0f;
      }
    }
    for (int first = 0; first < kHeadDim; first += kSlabRows) {
      __syncthreads();  // everyone has left the slab before, and the keys are there
      for (int i = threadIdx.x; i < Shape<kHeadDim>::kSlabFloats / 4; i += kThreads) {
        reinterpret_cast<float4*>(slab)[i] = LoadFour(covariance + first * kHeadDim + i * 4);
      }
      __syncthreads();
#pragma unroll 4
      for (int row = 0; row < kSlabRows; ++row) {
        const float4 own = LoadFour(keys + (first + row) * kTileKeys + thread_key);
        const float key[4] = {own.x, own.y, own.z, own.w};
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          const float4 c = LoadFour(slab + row * kHeadDim + v * kSide * 4 + thread_column);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            sums[k][v][0] = fmaf(key[k], c.x, sums[k][v][0]);
            sums[k][v][1] = fmaf(key[k], c.y, sums[k][v][1]);
            sums[k][v][2] = fmaf(key[k], c.z, sums[k][v][2]);
            sums[k][v][3] = fmaf(key[k], c.w, sums[k][v][3]);
          }
        }
      }
    }
  }

  // This thread's share of key k's logit: its columns'.
  __device__ float Logit(const Params& p, const float* mean, const float* keys, int k) const {
    const int thread_key = threadIdx.x / kSide * 4, thread_column = threadIdx.x % kSide * 4;
    float logit = 0.0f;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int column = v * kSide * 4 + thread_column + e;
        const float slope = fmaf(sums[k][v][e], p.of_product, mean[column] * p.of_mean);
        logit = fmaf(keys[column * kTileKeys + thread_key + k], slope, logit);
      }
    }
    return logit;
  }
};

// A block takes a tile of one KV head's keys, for all its query heads.
template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 2) LogitsKernel(const Params p) {
  WaitForTheKernelBefore();
  float* keys = reinterpret_cast<float*>(DynamicSharedMemory());
  float* slab = keys + Shape<kHeadDim>::kKeyFloats;
  const size_t first = static_cast<size_t>(blockIdx.x) * kTileKeys;
  LoadKeys<T, kHeadDim>(p, first, keys);
  for (int g = 0; g < p.group; ++g) {
    const size_t head = blockIdx.y * p.group + g;
    TileProducts<kHeadDim> products;
    products.Multiply(p.args.covariance + head * kHeadDim * kHeadDim, keys, slab);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float logit = products.Logit(p, p.args.mean + head * kHeadDim, keys, k);
#pragma unroll
      for (int step = kSide / 2; step > 0; step /= 2) {
        logit += __shfl_xor_sync(0xffffffffu, logit, step);
      }
      const size_t token = first + threadIdx.x / kSide * 4 + k;
      if (threadIdx.x % kSide == 0 && token < p.args.num_tokens) {
        p.args.logits[head * p.args.num_tokens + token] = logit;
      }
    }
  }
}

// A block takes a query head.
__global__ void __launch_bounds__(kRowThreads) SharesKernel(const Params p) {
  WaitForTheKernelBefore();
  const float* logits = p.args.logits + blockIdx.x * p.args.num_tokens;
  float largest = -INFINITY;
  for (size_t i = p.args.first_token + threadIdx.x; i < p.args.num_tokens; i += kRowThreads) {
    largest = fmaxf(largest, logits[i]);
  }
  largest = BlockMax(largest);
  float sum = 0.0f;
  for (size_t i = p.args.first_token + threadIdx.x; i < p.args.num_tokens; i += kRowThreads) {
    sum += expf(logits[i] - largest);
  }
  sum = BlockSum(sum);
  if (threadIdx.x == 0) p.shares[blockIdx.x] = {largest, 1.0f / sum};
}

// A value lies in kHeadDim / 8 neighbouring threads, a chunk in each.
template <class T, int kHeadDim>
__global__ void __launch_bounds__(kThreads) ScoresKernel(const Params p) {
  constexpr int kValueThreads = kHeadDim / kChunkElements;
  WaitForTheKernelBefore();
  const size_t token = (static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x) / kValueThreads;
  const int chunk = threadIdx.x % kValueThreads;
  float squares = 0.0f;
  if (token < p.args.num_tokens) {
    const T* value =
        static_cast<const T*>(p.args.values) + blockIdx.y * p.args.head_stride + token * kHeadDim;
    float x[kChunkElements];
    UnpackChunk<T>(reinterpret_cast<const uint4*>(value)[chunk], x);
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) squares += x[e] * x[e];
  }
#pragma unroll
  for (int step = kValueThreads / 2; step > 0; step /= 2) {
    squares += __shfl_xor_sync(0xffffffffu, squares, step);
  }
  if (chunk != 0 || token >= p.args.num_tokens) return;
  float expected = 0.0f;
  if (token >= p.args.first_token) {
    for (int g = 0; g < p.group; ++g) {
      const size_t head = blockIdx.y * p.group + g;
      const RowShare row = p.shares[head];
      expected += expf(p.args.logits[head * p.args.num_tokens + token] - row.largest) * row.share;
    }
  }
  p.args.scores[blockIdx.y * p.args.scores_row_stride + token] =
      expected / p.group * sqrtf(squares);
}

absl::Status Check(const ExpectedScoresArgs& args) {
  RETURN_IF_ERROR(CheckHeads(args.num_query_heads, args.num_kv_heads));
  if (args.first_token >= args.num_tokens || args.scores_row_stride < args.num_tokens ||
      args.head_stride < args.num_tokens * args.head_dim) {
    return absl::InvalidArgumentError(absl::StrCat(
        "first_token ", args.first_token, ", num_tokens ", args.num_tokens, ", head_stride ",
        args.head_stride, ", scores_row_stride ", args.scores_row_stride,
        ": wanted a token inside the prompt, and rows that hold it"));
  }
  return absl::OkStatus();
}

}  // namespace

size_t ExpectedScoresWorkspaceBytes(size_t num_query_heads) {
  return num_query_heads * sizeof(RowShare);
}

absl::Status ExpectedScores(cudaStream_t stream, const ExpectedScoresArgs& args) {
  RETURN_IF_ERROR(Check(args));
  Params p = {};
  p.args = args;
  p.shares = static_cast<RowShare*>(args.workspace);
  p.group = static_cast<int>(args.num_query_heads / args.num_kv_heads);
  p.of_mean = 1.0f / std::sqrt(static_cast<float>(args.head_dim));
  p.of_product = 0.5f / static_cast<float>(args.head_dim);
  return WithElementType(args.dtype, [&](auto element) {
    using T = decltype(element);
    return WithHeadDim(args.head_dim, [&](auto head_dim) -> absl::Status {
      const unsigned heads = args.num_kv_heads;
      const size_t tiles = (args.num_tokens + kTileKeys - 1) / kTileKeys;
      RETURN_IF_ERROR(LaunchEarly(stream, dim3(tiles, heads), dim3(kThreads),
                                  Shape<head_dim()>::kSharedBytes, LogitsKernel<T, head_dim()>, p));
      RETURN_IF_ERROR(
          LaunchEarly(stream, dim3(args.num_query_heads), dim3(kRowThreads), 0, SharesKernel, p));
      const size_t threads = args.num_tokens * head_dim() / kChunkElements;
      return LaunchEarly(stream, dim3((threads + kThreads - 1) / kThreads, heads), dim3(kThreads),
                         0, ScoresKernel<T, head_dim()>, p);
    });
  });
}

}  // namespace kvship::cuda
