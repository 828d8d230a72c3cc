#include "base/status_macros.h"
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/radix.cuh"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTokensPerBlock = kThreads / kWarpThreads;
constexpr int kLogitsPerLane = kMostExperts / kWarpThreads;

// The order of (logit, expert) as an order of integers: larger logits first, of equal ones the
// smaller expert. 0 is below all.
using ChoiceKey = unsigned long long;  // NOLINT(google-runtime-int): what warps exchange
__device__ ChoiceKey KeyOfChoice(float logit, uint32_t expert) {
  return ChoiceKey{KeyOf(logit)} << 32 | ~expert;
}

// A warp for each token; a lane looks at every 32nd expert.
__global__ void __launch_bounds__(kThreads) ChooseKernel(const ChooseExpertsArgs args) {
  WaitForTheKernelBefore();
  const size_t token =
      static_cast<size_t>(blockIdx.x) * kTokensPerBlock + threadIdx.x / kWarpThreads;
  if (token >= args.num_tokens) return;
  const auto lane = static_cast<uint32_t>(threadIdx.x % kWarpThreads);
  const float* logits = args.logits + token * args.num_experts;
  ChoiceKey keys[kLogitsPerLane] = {};
#pragma unroll
  for (int i = 0; i < kLogitsPerLane; ++i) {
    const uint32_t expert = i * kWarpThreads + lane;
    if (expert < args.num_experts) keys[i] = KeyOfChoice(logits[expert], expert);
  }
  const size_t first_choice = token * args.experts_per_token;
  float largest = 0.0f, chosen_sum = 0.0f;
  for (size_t j = 0; j < args.experts_per_token; ++j) {
    ChoiceKey best = 0;
#pragma unroll
    for (int i = 0; i < kLogitsPerLane; ++i) best = max(best, keys[i]);
    for (int step = kWarpThreads / 2; step > 0; step /= 2) {
      best = max(best, __shfl_xor_sync(0xffffffffu, best, step));
    }
#pragma unroll
    for (int i = 0; i < kLogitsPerLane; ++i) {
      if (keys[i] == best) keys[i] = 0;
    }
    const uint32_t expert = ~static_cast<uint32_t>(best);
    const float logit = logits[expert];
    if (j == 0) largest = logit;
    const float share = expf(logit - largest);
    chosen_sum += share;
    if (lane == 0) {
      args.experts[first_choice + j] = expert;
      args.weights[first_choice + j] = share;
    }
  }
  float sum = 0.0f;
  for (size_t expert = lane; expert < args.num_experts; expert += kWarpThreads) {
    sum += expf(logits[expert] - largest);
  }
  for (int step = kWarpThreads / 2; step > 0; step /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, step);
  }
  if (lane > 0) return;
  const bool is_nan = sum != sum;
  if (args.normalizes && !is_nan) sum = chosen_sum;
  for (size_t j = 0; j < args.experts_per_token; ++j) args.weights[first_choice + j] /= sum;
}

// A block for each expert. Each counts the rows of all experts, which saves a kernel that would
// count them for all.
__global__ void __launch_bounds__(kRadixThreads) GroupKernel(const GroupByExpertArgs args) {
  constexpr int kPerThread = 8;
  __shared__ uint32_t counts[kMostExperts];
  WaitForTheKernelBefore();
  const uint32_t own = blockIdx.x, thread = threadIdx.x;
  const auto num_choices = static_cast<uint32_t>(args.num_tokens * args.experts_per_token);
  if (thread < kMostExperts) counts[thread] = 0;
  __syncthreads();
  for (uint32_t i = thread; i < num_choices; i += kRadixThreads) {
    atomicAdd(&counts[args.experts[i]], 1u);  // integers: the order does not matter
  }
  __syncthreads();
  const uint32_t count = thread < args.num_experts ? counts[thread] : 0;
  const auto multiple = static_cast<uint32_t>(args.multiple);
  const uint32_t num_rows = (count + multiple - 1) / multiple * multiple;
  const BlockSums<uint32_t> rows = BlockScan(num_rows);
  const BlockSums<uint32_t> active = BlockScan(count > 0 ? 1u : 0u);
  __shared__ uint32_t first;
  if (thread == own) {
    first = rows.before;
    const uint32_t run = count > 0 ? active.before : active.total + own - active.before;
    args.runs[run] = {own, rows.before, count};
  }
  __syncthreads();
  uint32_t position = first;
  for (uint32_t tile = 0; tile < num_choices; tile += kRadixThreads * kPerThread) {
    const uint32_t begin = tile + thread * kPerThread;
    uint32_t mine = 0;
#pragma unroll
    for (uint32_t i = begin; i < begin + kPerThread; ++i) {
      if (i < num_choices && args.experts[i] == own) ++mine;
    }
    const BlockSums<uint32_t> found = BlockScan(mine);
    uint32_t next = position + found.before;
#pragma unroll
    for (uint32_t i = begin; i < begin + kPerThread; ++i) {
      if (i < num_choices && args.experts[i] == own) args.positions[i] = next++;
    }
    position += found.total;
  }
}

// A thread for each chunk of a row that is brought to an expert.
__global__ void __launch_bounds__(kThreads) SpreadKernel(const SpreadRowsArgs args) {
  WaitForTheKernelBefore();
  const size_t chunks = args.width / kChunkElements;
  const size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.num_tokens * args.experts_per_token * chunks) return;
  const size_t choice = i / chunks, chunk = i % chunks;
  static_cast<uint4*>(args.rows)[args.positions[choice] * chunks + chunk] =
      static_cast<const uint4*>(args.x)[choice / args.experts_per_token * chunks + chunk];
}

// A thread for each chunk of the output.
template <class T>
__global__ void __launch_bounds__(kThreads) CollectKernel(const CollectRowsArgs args) {
  WaitForTheKernelBefore();
  const size_t chunks = args.width / kChunkElements;
  const size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.num_tokens * chunks) return;
  const size_t token = i / chunks, chunk = i % chunks;
  uint4* const x = static_cast<uint4*>(args.x) + i;
  float sum[kChunkElements];
  UnpackChunk<T>(*x, sum);
  for (size_t j = 0; j < args.experts_per_token; ++j) {
    const size_t choice = token * args.experts_per_token + j;
    const float weight = args.weights[choice];
    float row[kChunkElements];
    UnpackChunk<T>(static_cast<const uint4*>(args.rows)[args.positions[choice] * chunks + chunk],
                   row);
#pragma unroll
    for (int e = 0; e < kChunkElements; ++e) sum[e] += weight * row[e];
  }
  *x = PackChunk<T>(sum);
}

absl::Status CheckChoices(size_t num_tokens, size_t num_experts, size_t experts_per_token) {
  if (num_tokens >= 1 && num_experts <= kMostExperts && experts_per_token >= 1 &&
      experts_per_token <= num_experts && num_tokens <= UINT32_MAX / kMostExperts / 2) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(num_tokens, " tokens through ", experts_per_token, " of ", num_experts,
                   " experts: wanted 1 to ", UINT32_MAX / kMostExperts / 2, " tokens, at most ",
                   kMostExperts, " experts, and at least one of them for each token"));
}

absl::StatusOr<dim3> GridOfChunks(size_t num_rows, size_t width) {
  if (num_rows < 1 || width < kChunkElements || width % kChunkElements != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        num_rows, " rows of ", width, ": wanted at least one, of a multiple of 8 elements"));
  }
  return dim3((num_rows * (width / kChunkElements) + kThreads - 1) / kThreads);
}

}  // namespace

absl::Status ChooseExperts(cudaStream_t stream, const ChooseExpertsArgs& args) {
  RETURN_IF_ERROR(CheckChoices(args.num_tokens, args.num_experts, args.experts_per_token));
  const size_t num_blocks = (args.num_tokens + kTokensPerBlock - 1) / kTokensPerBlock;
  return LaunchEarly(stream, dim3(num_blocks), dim3(kThreads), 0, ChooseKernel, args);
}

absl::Status GroupByExpert(cudaStream_t stream, const GroupByExpertArgs& args) {
  RETURN_IF_ERROR(CheckChoices(args.num_tokens, args.num_experts, args.experts_per_token));
  if (args.multiple < 1) return absl::InvalidArgumentError("multiple 0: wanted at least 1");
  return LaunchEarly(stream, dim3(args.num_experts), dim3(kRadixThreads), 0, GroupKernel, args);
}

absl::Status SpreadRows(cudaStream_t stream, const SpreadRowsArgs& args) {
  ASSIGN_OR_RETURN(const dim3 grid,
                   GridOfChunks(args.num_tokens * args.experts_per_token, args.width));
  return LaunchEarly(stream, grid, dim3(kThreads), 0, SpreadKernel, args);
}

absl::Status CollectRows(cudaStream_t stream, const CollectRowsArgs& args) {
  ASSIGN_OR_RETURN(const dim3 grid, GridOfChunks(args.num_tokens, args.width));
  return WithElementType(args.dtype, [&](auto element) {
    return LaunchEarly(stream, grid, dim3(kThreads), 0, CollectKernel<decltype(element)>, args);
  });
}

}  // namespace kvship::cuda
