#include "kernels/cuda/block_sum.cuh"
#include "kernels/cuda/kept_mass.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 1024;
// Votes are right to a millionth: of a middle with less of the attention than this, all but what is
// outside would have fewer than three digits.
constexpr float kLeastByDifference = 0x1p-10f;

__device__ float GroupVotes(const KeptMassArgs& args, const float* votes, size_t token) {
  float sum = 0.0f;
#pragma unroll 4
  for (size_t g = 0; g < args.group; ++g) sum += votes[g * args.votes_row_stride + token];
  return sum;
}

// A block takes one KV head.
__global__ void __launch_bounds__(kThreads) KeptMassKernel(const KeptMassArgs args) {
  WaitForTheKernelBefore();
  const size_t head = blockIdx.x;
  const float* votes = args.votes + head * args.group * args.votes_row_stride;
  const int32_t begin = args.offsets[head];
  const auto num_chosen = static_cast<size_t>(args.offsets[head + 1] - begin);
  const size_t first_last = args.num_tokens - args.num_last;
  float kept = 0.0f, kept_middle = 0.0f, outside = 0.0f;
  for (size_t i = threadIdx.x; i < num_chosen + args.num_last; i += kThreads) {
    const size_t token = i < num_chosen ? static_cast<size_t>(args.positions[begin + i])
                                        : first_last + (i - num_chosen);
    const float share = GroupVotes(args, votes, token);
    kept += share;
    if (token >= args.middle_begin && token < args.middle_end) kept_middle += share;
  }
  const size_t num_outside = args.num_tokens - (args.middle_end - args.middle_begin);
  for (size_t i = threadIdx.x; i < num_outside; i += kThreads) {
    const size_t after = i - args.middle_begin + args.middle_end;
    outside += GroupVotes(args, votes, i < args.middle_begin ? i : after);
  }
  kept = BlockSum(kept);
  __syncthreads();
  kept_middle = BlockSum(kept_middle);
  __syncthreads();
  outside = BlockSum(outside);
  const auto all = static_cast<float>(args.group * args.window);
  float middle = all - outside;
  if (middle < kLeastByDifference * all) {
    float sum = 0.0f;
    for (size_t i = args.middle_begin + threadIdx.x; i < args.middle_end; i += kThreads) {
      sum += GroupVotes(args, votes, i);
    }
    __syncthreads();
    middle = BlockSum(sum);
  }
  if (threadIdx.x != 0) return;
  // Rounding must not make a share of more than one.
  args.retained_mass[head] = MinOrNan(1.0f, kept / all);
  args.chosen_mass[head] = middle <= 0.0f ? 1.0f : MinOrNan(1.0f, kept_middle / middle);
}

}  // namespace

absl::Status KeptMass(cudaStream_t stream, const KeptMassArgs& args) {
  if (args.num_kv_heads < 1 || args.group < 1 || args.window < 1 ||
      args.middle_begin > args.middle_end || args.middle_end > args.num_tokens ||
      args.num_last > args.num_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_kv_heads ", args.num_kv_heads, ", group ", args.group, ", window ", args.window,
        ", num_last ", args.num_last, ", middle ", args.middle_begin, " to ", args.middle_end,
        " of num_tokens ", args.num_tokens, ": wanted heads, and last tokens and a middle inside"));
  }
  return LaunchEarly(stream, dim3(args.num_kv_heads), dim3(kThreads), 0, KeptMassKernel, args);
}

}  // namespace kvship::cuda
