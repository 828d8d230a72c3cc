#include "kernels/cuda/decode_step.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_layout.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) AdvanceKernel(const AdvanceTailsArgs args) {
  WaitForTheKernelBefore();
  const size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  const size_t layer_heads = args.num_sequences * args.num_heads;
  if (i >= args.num_layers * layer_heads) return;
  PagedHead& head = args.heads[i];
  const uint32_t slot = head.num_tail_tokens;
  const size_t heads_of_tail = args.num_heads / args.num_kv_heads;
  if (i % heads_of_tail == 0) {
    args.pages[i / heads_of_tail] = const_cast<std::byte*>(head.tail_pages[slot / kPageTokens]);
  }
  head.num_tail_tokens = slot + 1;
  if (i >= layer_heads || i % args.num_heads != 0) return;
  const size_t sequence = i / args.num_heads;
  args.slots[sequence] = static_cast<int32_t>(slot % kPageTokens);
  ++args.positions[sequence];
}

}  // namespace

absl::Status AdvanceTails(cudaStream_t stream, const AdvanceTailsArgs& args) {
  const size_t num_heads = args.num_layers * args.num_sequences * args.num_heads;
  if (num_heads < 1 || args.num_kv_heads < 1 || args.num_heads % args.num_kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_layers ", args.num_layers, ", num_sequences ", args.num_sequences,
                     ", num_heads ", args.num_heads, ", num_kv_heads ", args.num_kv_heads,
                     ": wanted at least 1 of each, and heads that are a multiple of the KV heads"));
  }
  return LaunchEarly(stream, dim3((num_heads + kThreads - 1) / kThreads), dim3(kThreads), 0,
                     AdvanceKernel, args);
}

}  // namespace kvship::cuda
