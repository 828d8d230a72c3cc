#include <cmath>

#include "kernels/cuda/decode_step.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRowThreads = 1024;

__global__ void __launch_bounds__(kThreads) AdvanceKernel(const AdvanceTailsArgs args) {
  const size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  const size_t layer_heads = args.num_sequences * args.num_kv_heads;
  if (i >= args.num_layers * layer_heads) return;
  PagedHead& head = args.heads[i];
  const uint32_t slot = head.num_tail_tokens;
  args.pages[i] = const_cast<std::byte*>(head.tail_pages[slot / kPageTokens]);
  head.num_tail_tokens = slot + 1;
  if (i >= layer_heads || i % args.num_kv_heads != 0) return;
  const size_t sequence = i / args.num_kv_heads;
  args.slots[sequence] = static_cast<int32_t>(slot % kPageTokens);
  ++args.positions[sequence];
}

// A logit and its token: the larger logit comes first, then the smaller token.
struct Candidate {
  float logit;
  int32_t token;
};
__device__ Candidate Better(Candidate a, Candidate b) {
  const bool b_first = b.logit > a.logit || (b.logit == a.logit && b.token < a.token);
  return b_first ? b : a;
}
__device__ Candidate BestOfWarp(Candidate best) {
#pragma unroll
  for (int step = kWarpThreads / 2; step > 0; step /= 2) {
    const Candidate other = {__shfl_xor_sync(0xffffffffu, best.logit, step),
                             __shfl_xor_sync(0xffffffffu, best.token, step)};
    best = Better(best, other);
  }
  return best;
}

__global__ void __launch_bounds__(kRowThreads) LikeliestKernel(const LikeliestTokensArgs args) {
  __shared__ Candidate warps[kRowThreads / kWarpThreads];
  const float* logits = args.logits + static_cast<size_t>(blockIdx.x) * args.vocab_tokens;
  Candidate best = {-INFINITY, INT32_MAX};
  for (size_t i = threadIdx.x; i < args.vocab_tokens; i += kRowThreads) {
    best = Better(best, {logits[i], static_cast<int32_t>(i)});
  }
  best = BestOfWarp(best);
  if (threadIdx.x % kWarpThreads == 0) warps[threadIdx.x / kWarpThreads] = best;
  __syncthreads();
  if (threadIdx.x >= kWarpThreads) return;
  best = BestOfWarp(warps[threadIdx.x]);
  if (threadIdx.x == 0) args.tokens[blockIdx.x] = best.token == INT32_MAX ? 0 : best.token;
}

}  // namespace

absl::Status AdvanceTails(cudaStream_t stream, const AdvanceTailsArgs& args) {
  const size_t num_heads = args.num_layers * args.num_sequences * args.num_kv_heads;
  if (num_heads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_layers ", args.num_layers, ", num_sequences ", args.num_sequences,
                     ", num_kv_heads ", args.num_kv_heads, ": wanted at least 1 of each"));
  }
  return Launch(stream, dim3((num_heads + kThreads - 1) / kThreads), dim3(kThreads), 0,
                AdvanceKernel, args);
}

absl::Status LikeliestTokens(cudaStream_t stream, const LikeliestTokensArgs& args) {
  if (args.num_sequences < 1 || args.vocab_tokens < 1 || args.vocab_tokens > INT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("num_sequences ", args.num_sequences,
                                                   ", vocab_tokens ", args.vocab_tokens,
                                                   ": wanted at least 1 of each"));
  }
  return Launch(stream, dim3(args.num_sequences), dim3(kRowThreads), 0, LikeliestKernel, args);
}

}  // namespace kvship::cuda
