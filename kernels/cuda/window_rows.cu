#include "kernels/cuda/launch.h"
#include "kernels/cuda/tile_layout.h"
#include "kernels/cuda/window_rows.h"

namespace kvship::cuda {
namespace {

constexpr int kElementBytes = 2;

// A block takes one query head of one row; its threads copy a chunk each.
__global__ void WindowRowsKernel(const WindowRowsArgs args) {
  const size_t row = blockIdx.x, head = blockIdx.y;
  const size_t to = head * args.window + args.to_row + row;
  const auto* q =
      static_cast<const std::byte*>(args.q) +
      ((args.from_row + row) * args.q_row_stride + head * args.head_dim) * kElementBytes;
  auto* window_q = static_cast<std::byte*>(args.window_q) + to * args.head_dim * kElementBytes;
  const unsigned chunks = args.head_dim / kChunkElements;
  for (unsigned chunk = threadIdx.x; chunk < chunks; chunk += blockDim.x) {
    reinterpret_cast<uint4*>(window_q)[chunk] = reinterpret_cast<const uint4*>(q)[chunk];
  }
  if (threadIdx.x == 0) {
    args.window_lse[to] = args.lse[head * args.lse_row_stride + args.from_row + row];
  }
}

}  // namespace

absl::Status KeepWindowRows(cudaStream_t stream, const WindowRowsArgs& args) {
  if (args.num_rows < 1 || args.to_row + args.num_rows > args.window ||
      args.num_query_heads > 65535 || args.head_dim % kChunkElements != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows ", args.to_row, " to ", args.to_row + args.num_rows, " of a window of ",
                     args.window, ", head_dim ", args.head_dim,
                     ": wanted rows inside the window and a multiple of ", kChunkElements));
  }
  return Launch(stream, dim3(args.num_rows, args.num_query_heads), dim3(kWarpThreads), 0,
                WindowRowsKernel, args);
}

}  // namespace kvship::cuda
