#include <algorithm>
#include <cmath>
#include <type_traits>

#include "base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/page_splits.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr int kMaxGroup = 16;  // rows of an m16n8k16 product
// Three units in flight per warp and two blocks on a multiprocessor: 128 KiB under way, at D = 128.
constexpr int kUnitsPerWarp = kSplitPages * kUnitsPerPage / kWarps;
constexpr int kStages = 3;

// Pairs of a page's numbers as those of the product, each rounded once.
template <class Page, class T>
__device__ void Convert(uint32_t (&pairs)[4]) {
  if constexpr (!std::is_same_v<Page, T>) {
#pragma unroll
    for (uint32_t& pair : pairs) {
      const FloatPair x = UnpackPair<Page>(pair);
      pair = PackPair<T>(x.low, x.high);
    }
  }
}

// One warp's share of a split: its queries, and the online softmax over the units it has seen.
// Rows are query heads; a lane holds rows lane / 4 and lane / 4 + 8.
template <class T, int kHeadDim>
struct WarpState {
  uint32_t q[kHeadDim / 16][4];
  float out[kHeadDim / 8][4] = {};
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};

  __device__ void LoadQueries(const T* queries, int group, int lane) {
    const int row = AccumulatorRow(lane);
#pragma unroll
    for (int s = 0; s < kHeadDim / 16; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = row + (i & 1) * 8;
        const int column = s * 16 + (i >> 1) * 8 + AccumulatorColumn(lane);
        q[s][i] =
            r < group ? *reinterpret_cast<const uint32_t*>(queries + r * kHeadDim + column) : 0;
      }
    }
  }

  // Takes in a unit of which the first `num_tokens` count; keys and values are tiles of a Page's
  // numbers.
  template <class Page>
  __device__ void Attend(const T* keys, const T* values, int num_tokens, float scale, int lane) {
    float scores[2][4] = {};
    const MatrixRow key = RightThenDown(lane);
#pragma unroll
    for (int s = 0; s < kHeadDim / 16; ++s) {
      uint32_t b[4];
      LoadMatrices(b, keys + TileOffset(kHeadDim, key.row, s * 2 + key.chunk));
      Convert<Page, T>(b);
      MultiplyAdd<T>(scores[0], q[s], b[0], b[1]);
      MultiplyAdd<T>(scores[1], q[s], b[2], b[3]);
    }
    uint32_t weights[4];
    Weigh(scores, num_tokens, scale, lane, weights);
    const MatrixRow value = DownThenRight(lane);
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; j += 2) {
      uint32_t b[4];
      LoadMatricesTransposed(b, values + TileOffset(kHeadDim, value.row, j + value.chunk));
      Convert<Page, T>(b);
      MultiplyAdd<T>(out[j], weights, b[0], b[1]);
      MultiplyAdd<T>(out[j + 1], weights, b[2], b[3]);
    }
  }

  // Scores to weights relative to the new maximum, as the operand A of the product with V; what was
  // summed before is scaled to that maximum.
  __device__ void Weigh(float (&scores)[2][4], int num_tokens, float scale, int lane,
                        uint32_t (&weights)[4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float unit_maximum = -INFINITY;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = scores[n][half * 2 + e];
          const bool counts = n * 8 + AccumulatorColumn(lane) + e < num_tokens;
          score = counts ? score * scale : -INFINITY;
          unit_maximum = fmaxf(unit_maximum, score);
        }
      }
      const float new_maximum = fmaxf(maximum[half], QuadMax(unit_maximum));
      const float rescale = Exp2(maximum[half] - new_maximum);
      maximum[half] = new_maximum;
      float unit_sum = 0.0f;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float low = Exp2(scores[n][half * 2] - new_maximum);
        const float high = Exp2(scores[n][half * 2 + 1] - new_maximum);
        unit_sum += low + high;
        weights[n * 2 + half] = PackPair<T>(low, high);
      }
      sum[half] = sum[half] * rescale + unit_sum;
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
        out[j][half * 2] *= rescale;
        out[j][half * 2 + 1] *= rescale;
      }
    }
  }
};

template <class T, int kHeadDim>
__device__ void StoreWarp(const WarpState<T, kHeadDim>& state, int group, int lane, float* out,
                          float2* stats) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = AccumulatorRow(lane) + half * 8;
    const float sum = QuadSum(state.sum[half]);
    if (row >= group) continue;
    if ((lane & 3) == 0) stats[row] = make_float2(state.maximum[half], sum);
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; ++j) {
      *reinterpret_cast<float2*>(out + row * kHeadDim + j * 8 + AccumulatorColumn(lane)) =
          make_float2(state.out[j][half * 2], state.out[j][half * 2 + 1]);
    }
  }
}

// A block takes one split of one head; its warps take turns with the split's units. Prefix pages
// hold numbers of type Prefix, which has as many bits as T.
template <class T, class Prefix, int kHeadDim>
__global__ void __launch_bounds__(kSplitThreads, 2) SplitKernel(const PagedSplits p) {
  WaitForTheKernelBefore();
  const int lane = threadIdx.x % kWarpThreads, warp = threadIdx.x / kWarpThreads;
  const Split split = FindSplit(p, lane);
  if (split.request == p.num_requests) return;
  const PagedHead head = p.args.heads[split.request];
  const int num_pages = NumPages(head);
  if (split.number > 0 && split.number * kSplitPages >= num_pages) return;
  constexpr int kUnitElements = 2 * kUnitTokens * kHeadDim;
  T* ring = reinterpret_cast<T*>(DynamicSharedMemory()) + warp * kStages * kUnitElements;

  // All addresses at once: they come from memory, and nothing can start without them.
  Unit<T> units[kUnitsPerWarp];
#pragma unroll
  for (int turn = 0; turn < kUnitsPerWarp; ++turn) {
    units[turn] = FindUnit<T, kHeadDim>(
        head, split.number * kSplitPages * kUnitsPerPage + turn * kWarps + warp);
  }
#pragma unroll
  for (int turn = 0; turn < kStages - 1; ++turn) {
    StartUnit<T, kHeadDim>(units[turn], lane, ring + turn * kUnitElements);
  }
  WarpState<T, kHeadDim> state;
  const size_t sequence = split.request / p.args.num_kv_heads;
  const size_t kv_head = split.request % p.args.num_kv_heads;
  const T* queries = static_cast<const T*>(p.args.q) + sequence * p.args.q_row_stride +
                     kv_head * p.group * kHeadDim;
  state.LoadQueries(queries, p.group, lane);
#pragma unroll
  for (int turn = 0; turn < kUnitsPerWarp; ++turn) {
    const int next = turn + kStages - 1;
    if (next < kUnitsPerWarp) {
      StartUnit<T, kHeadDim>(units[next], lane, ring + next % kStages * kUnitElements);
    } else {
      CommitCopies();
    }
    WaitForCopies<kStages - 1>();
    __syncwarp();  // every lane's part of the unit has arrived
    const T* keys = ring + turn % kStages * kUnitElements;
    const T* values = keys + kUnitTokens * kHeadDim;
    const int num_tokens = units[turn].num_tokens;
    if (num_tokens > 0 && (std::is_same_v<Prefix, T> || units[turn].in_tail)) {
      state.template Attend<T>(keys, values, num_tokens, p.scale, lane);
    } else if (num_tokens > 0) {
      state.template Attend<Prefix>(keys, values, num_tokens, p.scale, lane);
    }
    __syncwarp();  // every lane has read it: the next copy may go there
  }

  WaitForCopies<0>();
  __syncthreads();  // the rings are free, and hold the warps' results now
  float* warp_out = reinterpret_cast<float*>(DynamicSharedMemory());
  float2* warp_stats = reinterpret_cast<float2*>(warp_out + kWarps * kMaxGroup * kHeadDim);
  StoreWarp<T, kHeadDim>(state, p.group, lane, warp_out + warp * kMaxGroup * kHeadDim,
                         warp_stats + warp * kMaxGroup);
  __syncthreads();
  StoreSplit<T, kHeadDim, kMaxGroup>(p, split, warp_out, warp_stats);
}

// The splits of one row are merged in eight parts, and those then, whatever their number: by one
// group of kHeadDim threads, part after part, or by eight at once, where the rows are too few to
// fill the device. Both do the same operations, so that a sequence's result does not depend on its
// company, which decides.
constexpr int kMergeParts = 8;
// Splits whose loads a thread has under way: it waits for the cache once, not once for each.
constexpr int kMergeAhead = 8;
constexpr size_t kThreadsOfMultiprocessor = 2048;

template <class T, int kHeadDim, int kGroups>
__global__ void __launch_bounds__(kHeadDim* kGroups) MergeKernel(const PagedSplits p) {
  __shared__ float part_out[kMergeParts * kHeadDim];
  __shared__ float2 part_stats[kMergeParts];
  WaitForTheKernelBefore();
  const size_t request = blockIdx.x;
  const int row = blockIdx.y;
  const int column = threadIdx.x % kHeadDim, group = threadIdx.x / kHeadDim;
  const uint32_t first_split = p.args.first_split[request];
  if (p.args.first_split[request + 1] - first_split == 1) return;  // it has stored its output
  const int num_splits = static_cast<int>(NumSplits(NumPages(p.args.heads[request])));
  T* out = static_cast<T*>(p.args.out) + (request * p.group + row) * kHeadDim + column;
  const auto merge = [&](int first, int count) {
    const size_t first_row = (size_t{first_split} + first) * p.group + row;
    return Merge<kMergeAhead>(p.partials + first_row * kHeadDim + column, p.group * kHeadDim,
                              p.stats + first_row, p.group, count);
  };
  if (num_splits <= kMergeParts) {
    // Each is a part of its own, and merging one changes no bit of it.
    if (group == 0) StoreElement(out, Normalised(merge(0, num_splits)));
    return;
  }
  const int most = (num_splits + kMergeParts - 1) / kMergeParts;
#pragma unroll 1
  for (int part = group; part < kMergeParts; part += kGroups) {
    const int first = part * most;
    const Merged merged = merge(first, max(0, min(most, num_splits - first)));
    part_out[part * kHeadDim + column] = merged.out;
    if (column == 0) part_stats[part] = make_float2(merged.maximum, merged.sum);
  }
  __syncthreads();
  if (group > 0) return;
  StoreElement(
      out, Normalised(Merge<kMergeParts>(part_out + column, kHeadDim, part_stats, 1, kMergeParts)));
}

absl::Status Check(const PagedAttentionArgs& args) {
  if (args.prefix_format == PageFormat::kF32) {
    return absl::InvalidArgumentError("prefix_format f32: wanted f16, bf16, fp8, int8 or int4");
  }
  RETURN_IF_ERROR(CheckHeads(args.num_query_heads, args.num_kv_heads));
  if (args.num_query_heads / args.num_kv_heads > kMaxGroup) {
    return absl::InvalidArgumentError(absl::StrCat("num_query_heads ", args.num_query_heads,
                                                   ": wanted at most ", kMaxGroup,
                                                   " per KV head of ", args.num_kv_heads));
  }
  const size_t num_requests = args.num_sequences * args.num_kv_heads;
  if (num_requests < 1 || num_requests > kMostPagedHeads) {
    return absl::InvalidArgumentError(absl::StrCat("num_sequences ", args.num_sequences,
                                                   " x num_kv_heads ", args.num_kv_heads,
                                                   ": wanted 1 to ", kMostPagedHeads));
  }
  if (args.q_row_stride < args.num_query_heads * args.head_dim || args.q_row_stride % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("q_row_stride ", args.q_row_stride,
                                                   ": wanted an even number, at least ",
                                                   args.num_query_heads * args.head_dim));
  }
  if (args.num_splits < num_requests || args.num_splits > INT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_splits ", args.num_splits, ": wanted ", num_requests, " to 2^31 - 1"));
  }
  if (args.num_splits > num_requests && args.workspace == nullptr) {
    return absl::InvalidArgumentError("workspace: wanted memory where a head has several splits");
  }
  return absl::OkStatus();
}

template <class T, class Prefix, int kHeadDim>
absl::Status LaunchSplits(cudaStream_t stream, const PagedSplits& p) {
  constexpr size_t kRingBytes = size_t{kWarps} * kStages * 2 * kUnitTokens * kHeadDim * sizeof(T);
  constexpr size_t kResultBytes =
      size_t{kWarps} * kMaxGroup * (kHeadDim * sizeof(float) + sizeof(float2));
  return LaunchEarly(stream, dim3(p.args.num_splits), dim3(kSplitThreads),
                     std::max(kRingBytes, kResultBytes), SplitKernel<T, Prefix, kHeadDim>, p);
}

template <class T, int kHeadDim>
absl::Status LaunchAttention(cudaStream_t stream, const PagedSplits& p) {
  absl::Status launched;
  switch (p.args.prefix_format) {
    case PageFormat::kF16: launched = LaunchSplits<T, f16, kHeadDim>(stream, p); break;
    case PageFormat::kBf16: launched = LaunchSplits<T, bf16, kHeadDim>(stream, p); break;
    default: launched = LaunchQuantizedSplits(stream, p);
  }
  RETURN_IF_ERROR(launched);
  const size_t most_splits = p.args.num_splits - p.num_requests + 1;  // of one head
  if (most_splits == 1) return absl::OkStatus();
  const dim3 grid(p.num_requests, p.group);
  ASSIGN_OR_RETURN(const size_t processors, NumMultiprocessors());
  const size_t num_threads = size_t{grid.x} * grid.y * kHeadDim * kMergeParts;
  if (most_splits > kMergeParts && num_threads <= processors * kThreadsOfMultiprocessor) {
    return LaunchEarly(stream, grid, dim3(kHeadDim * kMergeParts), 0,
                       MergeKernel<T, kHeadDim, kMergeParts>, p);
  }
  return LaunchEarly(stream, grid, dim3(kHeadDim), 0, MergeKernel<T, kHeadDim, 1>, p);
}

}  // namespace

size_t PagedAttentionWorkspaceBytes(const PagedAttentionArgs& args) {
  if (args.num_splits == args.num_sequences * args.num_kv_heads) return 0;
  return args.num_splits * (args.num_query_heads / args.num_kv_heads) *
         SplitRowBytes(args.head_dim);
}

absl::Status PagedAttention(cudaStream_t stream, const PagedAttentionArgs& args) {
  RETURN_IF_ERROR(Check(args));
  PagedSplits p = {};
  p.args = args;
  p.num_requests = static_cast<uint32_t>(args.num_sequences * args.num_kv_heads);
  p.group = static_cast<int>(args.num_query_heads / args.num_kv_heads);
  p.scale = kLog2E / std::sqrt(static_cast<float>(args.head_dim));
  p.partials = static_cast<float*>(args.workspace);
  p.stats = reinterpret_cast<float2*>(p.partials + args.num_splits * p.group * args.head_dim);
  return WithElementType(args.dtype, [&](auto element) {
    using T = decltype(element);
    return WithHeadDim(args.head_dim,
                       [&](auto head_dim) { return LaunchAttention<T, head_dim()>(stream, p); });
  });
}

}  // namespace kvship::cuda
