#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/rope_table.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) RopeTableKernel(const RopeTableArgs args) {
  WaitForTheKernelBefore();
  const size_t pairs = args.head_dim / 2;
  const size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.num_tokens * pairs) return;
  const size_t row = i / pairs;
  const auto position = args.positions != nullptr ? static_cast<double>(args.positions[row])
                                                  : static_cast<double>(args.first_position + row);
  const double angle = position * args.frequencies[i % pairs];
  args.out[2 * i] = static_cast<float>(cos(angle) * args.attention_factor);
  args.out[2 * i + 1] = static_cast<float>(sin(angle) * args.attention_factor);
}

}  // namespace

absl::Status FillRopeTable(cudaStream_t stream, const RopeTableArgs& args) {
  if (args.num_tokens < 1 || args.head_dim < 2 || args.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("num_tokens ", args.num_tokens, ", head_dim ",
                                                   args.head_dim,
                                                   ": wanted tokens and an even head size"));
  }
  const size_t angles = args.num_tokens * args.head_dim / 2;
  return LaunchEarly(stream, dim3((angles + kThreads - 1) / kThreads), dim3(kThreads), 0,
                     RopeTableKernel, args);
}

}  // namespace kvship::cuda
