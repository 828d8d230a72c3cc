#include <algorithm>

#include "base/status_macros.h"
#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"
#include "kernels/page_layout.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 256;
// A block of RmsNorm holds its row in registers: 4 chunks of 8 elements for each of 512 threads.
constexpr int kNormThreads = 512;
constexpr int kNormChunks = 4;
constexpr size_t kMaxNormWidth = size_t{kNormThreads} * kNormChunks * kChunkElements;

// Eight elements, read and written as one.
struct Floats {
  float x[kChunkElements];
};

template <class T>
__device__ Floats LoadChunk(const T* from) {
  Floats out;
  UnpackChunk<T>(*reinterpret_cast<const uint4*>(from), out.x);
  return out;
}

template <class T>
__device__ void StoreChunk(const Floats& chunk, T* to) {
  *reinterpret_cast<uint4*>(to) = PackChunk<T>(chunk.x);
}

template <class T>
__global__ void __launch_bounds__(kThreads) EmbedKernel(const EmbedArgs args) {
  WaitForTheKernelBefore();
  const size_t chunks = args.width / kChunkElements;
  const size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.num_tokens * chunks) return;
  const size_t row = i / chunks, chunk = i % chunks;
  const uint4* table = static_cast<const uint4*>(args.table);
  static_cast<uint4*>(args.out)[i] = table[max(args.ids[row], 0) * chunks + chunk];
}

template <class T>
__global__ void __launch_bounds__(kNormThreads) RmsNormKernel(const RmsNormArgs args) {
  WaitForTheKernelBefore();
  const size_t offset = static_cast<size_t>(blockIdx.x) * args.width;
  T* x = static_cast<T*>(args.x) + offset;
  const int chunks = static_cast<int>(args.width) / kChunkElements;
  Floats row[kNormChunks];
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kNormChunks; ++i) {
    const int chunk = i * blockDim.x + threadIdx.x;
    if (chunk >= chunks) continue;
    row[i] = LoadChunk(x + chunk * kChunkElements);
    if (args.residual != nullptr) {
      const T* residual = static_cast<const T*>(args.residual) + offset;
      const Floats added = LoadChunk(residual + chunk * kChunkElements);
#pragma unroll
      for (int e = 0; e < kChunkElements; ++e) row[i].x[e] += added.x[e];
      StoreChunk(row[i], x + chunk * kChunkElements);
    }
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) squares += row[i].x[e] * row[i].x[e];
  }
  const float factor = rsqrtf(BlockSum(squares) / args.width + args.epsilon);
  T* out = static_cast<T*>(args.out) + offset;
#pragma unroll
  for (int i = 0; i < kNormChunks; ++i) {
    const int chunk = i * blockDim.x + threadIdx.x;
    if (chunk >= chunks) continue;
    const Floats weight = LoadChunk(static_cast<const T*>(args.weight) + chunk * kChunkElements);
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) row[i].x[e] *= factor * weight.x[e];
    StoreChunk(row[i], out + chunk * kChunkElements);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) SiluMulKernel(const SiluMulArgs args) {
  constexpr float kLog2E = 1.4426950408889634f;
  WaitForTheKernelBefore();
  const size_t chunks = args.width / kChunkElements;
  const size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.num_tokens * chunks) return;
  const size_t row = i / chunks, column = i % chunks * kChunkElements;
  const T* from = static_cast<const T*>(args.gate_up) + row * 2 * args.width + column;
  Floats gate = LoadChunk(from);
  const Floats up = LoadChunk(from + args.width);
#pragma unroll
  for (int e = 0; e < kChunkElements; ++e) {
    gate.x[e] = gate.x[e] / (1.0f + Exp2(-gate.x[e] * kLog2E)) * up.x[e];
  }
  StoreChunk(gate, static_cast<T*>(args.out) + i * kChunkElements);
}

// Where the key and the value of (token, head) go.
template <class T>
struct Destination {
  T* key;
  T* value;
};
template <class T>
__device__ Destination<T> DestinationOf(const RopeArgs& args, size_t token, size_t head) {
  const size_t head_dim = args.head_dim;
  if (args.pages != nullptr) {
    T* page = reinterpret_cast<T*>(args.pages[token * args.num_kv_heads + head]);
    T* slot = page + args.slots[token] * head_dim;
    return {slot, slot + kPageTokens * head_dim};
  }
  const size_t offset = head * args.head_stride + (args.first_row + token) * head_dim;
  return {static_cast<T*>(args.keys) + offset, static_cast<T*>(args.values) + offset};
}

// Four pairs of one head, a[i] and b[i] of each turning together. Adjacent ones lie in one chunk,
// halves in the same place of two.
struct Pairs {
  float a[4];
  float b[4];
};
__device__ int FirstOf(const RopeArgs& args, int pair) {
  return args.pairs == RopePairs::kAdjacent ? 2 * pair : pair;
}
__device__ int SecondOf(const RopeArgs& args, int pair) {
  return args.pairs == RopePairs::kAdjacent ? 2 * pair + 2
                                            : pair + static_cast<int>(args.head_dim) / 2;
}

template <class T>
__device__ Pairs LoadPairs(const RopeArgs& args, const T* head, int pair) {
  const bool adjacent = args.pairs == RopePairs::kAdjacent;
  Pairs x;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    // a and b of two pairs: (a0, b0), (a1, b1) where adjacent, (a0, a1), (b0, b1) where in halves.
    const FloatPair low =
        UnpackPair<T>(*reinterpret_cast<const uint32_t*>(head + FirstOf(args, pair + i)));
    const FloatPair high =
        UnpackPair<T>(*reinterpret_cast<const uint32_t*>(head + SecondOf(args, pair + i)));
    x.a[i] = low.low;
    x.b[i] = adjacent ? low.high : high.low;
    x.a[i + 1] = adjacent ? high.low : low.high;
    x.b[i + 1] = high.high;
  }
  return x;
}

template <class T>
__device__ void StoreTurned(const RopeArgs& args, const Pairs& x, const float* cos_sin, int pair,
                            T* head) {
  const bool adjacent = args.pairs == RopePairs::kAdjacent;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const float4 angle = *reinterpret_cast<const float4*>(cos_sin + 2 * (pair + i));
    const float c0 = x.a[i] * angle.x - x.b[i] * angle.y;
    const float d0 = x.a[i] * angle.y + x.b[i] * angle.x;
    const float c1 = x.a[i + 1] * angle.z - x.b[i + 1] * angle.w;
    const float d1 = x.a[i + 1] * angle.w + x.b[i + 1] * angle.z;
    *reinterpret_cast<uint32_t*>(head + FirstOf(args, pair + i)) =
        adjacent ? PackPair<T>(c0, d0) : PackPair<T>(c0, c1);
    *reinterpret_cast<uint32_t*>(head + SecondOf(args, pair + i)) =
        adjacent ? PackPair<T>(c1, d1) : PackPair<T>(d0, d1);
  }
}

// RMS norm of a head, whose pairs lie four by four in `num_threads` neighbouring threads. Every
// thread of a warp calls it.
__device__ void NormHead(const Pairs& weight, float epsilon, int num_threads, Pairs& x) {
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) squares += x.a[i] * x.a[i] + x.b[i] * x.b[i];
  for (int step = num_threads / 2; step > 0; step /= 2) {
    squares += __shfl_xor_sync(0xffffffffu, squares, step);
  }
  const float factor = rsqrtf(squares / (num_threads * kChunkElements) + epsilon);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x.a[i] *= factor * weight.a[i];
    x.b[i] *= factor * weight.b[i];
  }
}

// A thread per eight elements of a head: four pairs to turn, or eight elements of a value to copy.
// With a norm, threads past the last head go along: whole warps add up squares.
template <class T, bool kNorm>
__global__ void __launch_bounds__(kThreads) RopeKernel(const RopeArgs args) {
  WaitForTheKernelBefore();
  const size_t num_heads = args.num_query_heads + 2 * args.num_kv_heads;
  const size_t chunks = args.head_dim / kChunkElements;
  const size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool stores = i < args.num_tokens * num_heads * chunks;
  if (!kNorm && !stores) return;
  const int chunk = static_cast<int>(i % chunks);
  const size_t head = stores ? i / chunks % num_heads : 0;
  const size_t token = stores ? i / chunks / num_heads : 0;
  T* from = static_cast<T*>(args.qkv) + (token * num_heads + head) * args.head_dim;
  const float* cos_sin = args.cos_sin + token * args.head_dim;
  const bool is_query = head < args.num_query_heads;
  const bool is_key = !is_query && head < args.num_query_heads + args.num_kv_heads;
  Pairs x = {};
  if (stores && (is_query || is_key)) x = LoadPairs(args, from, chunk * 4);
  if constexpr (kNorm) {
    const T* weight = static_cast<const T*>(is_query ? args.query_norm : args.key_norm);
    NormHead(LoadPairs(args, weight, chunk * 4), args.norm_epsilon, static_cast<int>(chunks), x);
    if (!stores) return;
  }
  if (is_query) {
    StoreTurned(args, x, cos_sin, chunk * 4, from);
    return;
  }
  const size_t kv_head = head - args.num_query_heads - (is_key ? 0 : args.num_kv_heads);
  const Destination<T> to = DestinationOf<T>(args, token, kv_head);
  if (is_key) {
    StoreTurned(args, x, cos_sin, chunk * 4, to.key);
  } else {
    reinterpret_cast<uint4*>(to.value)[chunk] = reinterpret_cast<const uint4*>(from)[chunk];
  }
}

absl::Status CheckWidth(const char* name, size_t width, size_t num_tokens, size_t max_width) {
  if (width < kChunkElements || width % kChunkElements != 0 || width > max_width) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " ", width, ": wanted a multiple of 8, at most ", max_width));
  }
  if (num_tokens < 1) return absl::InvalidArgumentError("num_tokens 0: wanted at least 1");
  return absl::OkStatus();
}

dim3 GridFor(size_t num_chunks) { return dim3((num_chunks + kThreads - 1) / kThreads); }

constexpr size_t kAnyWidth = size_t{1} << 24;

}  // namespace

absl::Status Embed(cudaStream_t stream, const EmbedArgs& args) {
  RETURN_IF_ERROR(CheckWidth("width", args.width, args.num_tokens, kAnyWidth));
  return WithElementType(args.dtype, [&](auto element) {
    return LaunchEarly(stream, GridFor(args.num_tokens * args.width / kChunkElements),
                       dim3(kThreads), 0, EmbedKernel<decltype(element)>, args);
  });
}

absl::Status RmsNorm(cudaStream_t stream, const RmsNormArgs& args) {
  RETURN_IF_ERROR(CheckWidth("width", args.width, args.num_tokens, kMaxNormWidth));
  const size_t chunks = args.width / kChunkElements;
  const size_t warps =
      std::min<size_t>((chunks + kWarpThreads - 1) / kWarpThreads, kNormThreads / kWarpThreads);
  return WithElementType(args.dtype, [&](auto element) {
    return LaunchEarly(stream, dim3(args.num_tokens), dim3(warps * kWarpThreads), 0,
                       RmsNormKernel<decltype(element)>, args);
  });
}

absl::Status SiluMul(cudaStream_t stream, const SiluMulArgs& args) {
  RETURN_IF_ERROR(CheckWidth("width", args.width, args.num_tokens, kAnyWidth));
  return WithElementType(args.dtype, [&](auto element) {
    return LaunchEarly(stream, GridFor(args.num_tokens * args.width / kChunkElements),
                       dim3(kThreads), 0, SiluMulKernel<decltype(element)>, args);
  });
}

absl::Status RopeAndStore(cudaStream_t stream, const RopeArgs& args) {
  RETURN_IF_ERROR(CheckHeads(args.num_query_heads, args.num_kv_heads));
  RETURN_IF_ERROR(CheckWidth("head_dim", args.head_dim, args.num_tokens, kAnyWidth));
  if (args.pages == nullptr &&
      args.head_stride < (args.first_row + args.num_tokens) * args.head_dim) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_stride ", args.head_stride, ": wanted at least ",
                     (args.first_row + args.num_tokens) * args.head_dim));
  }
  const bool norm = args.query_norm != nullptr;
  if (norm != (args.key_norm != nullptr)) {
    return absl::InvalidArgumentError("query_norm without key_norm: wanted both or neither");
  }
  if (norm && args.head_dim != 64 && args.head_dim != 128 && args.head_dim != 256) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim ", args.head_dim, ": wanted 64, 128 or 256 with a norm"));
  }
  const size_t num_heads = args.num_query_heads + 2 * args.num_kv_heads;
  return WithElementType(args.dtype, [&](auto element) {
    using T = decltype(element);
    return LaunchEarly(stream,
                       GridFor(args.num_tokens * num_heads * args.head_dim / kChunkElements),
                       dim3(kThreads), 0, norm ? RopeKernel<T, true> : RopeKernel<T, false>, args);
  });
}

}  // namespace kvship::cuda
