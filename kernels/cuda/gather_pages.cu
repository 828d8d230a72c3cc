#include "base/status_macros.h"
#include "kernels/cuda/gather_pages.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/quantize_page.cuh"
#include "kernels/cuda/tile_layout.h"
#include "kernels/page_layout.h"

namespace kvship::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kElementBytes = 2;

// One page per block, K then V; consecutive threads copy consecutive chunks of a row.
__global__ void __launch_bounds__(kThreads) GatherKernel(const GatherPagesArgs args) {
  WaitForTheKernelBefore();
  const size_t head = blockIdx.y;
  const size_t count = args.num_per_head != nullptr ? args.num_per_head[head] : args.num_tokens;
  const size_t first = static_cast<size_t>(blockIdx.x) * kPageTokens;
  if (first >= count) return;
  const int row_chunks = static_cast<int>(args.head_dim) / kChunkElements;
  const int half_chunks = static_cast<int>(kPageTokens) * row_chunks;
  const int32_t* positions = args.positions + head * args.positions_row_stride + first;
  const size_t head_offset = head * args.head_stride * kElementBytes;
  const std::byte* keys = static_cast<const std::byte*>(args.keys) + head_offset;
  const std::byte* values = static_cast<const std::byte*>(args.values) + head_offset;
  std::byte* page =
      args.pages + (head * args.pages_per_head + blockIdx.x) * 2 * half_chunks * kChunkBytes;
#pragma unroll 4
  for (int i = threadIdx.x; i < 2 * half_chunks; i += kThreads) {
    const int chunk = i % half_chunks;
    const int row = chunk / row_chunks;
    uint4 bytes = make_uint4(0, 0, 0, 0);
    if (first + row < count) {
      const std::byte* tensor = i < half_chunks ? keys : values;
      const size_t from = static_cast<size_t>(positions[row]) * args.head_dim * kElementBytes +
                          static_cast<size_t>(chunk % row_chunks) * kChunkBytes;
      bytes = *reinterpret_cast<const uint4*>(tensor + from);
    }
    *reinterpret_cast<uint4*>(page + static_cast<size_t>(i) * kChunkBytes) = bytes;
  }
}

absl::Status Check(const GatherPagesArgs& args) {
  RETURN_IF_ERROR(CheckPageFormat("format", args.format, args.dtype));
  const bool has_groups = args.format == PageFormat::kInt8 || args.format == PageFormat::kInt4;
  const size_t multiple = has_groups ? kValueGroup : size_t{kChunkElements};
  if (args.head_dim < 1 || args.head_dim % multiple != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim ", args.head_dim, ": wanted a multiple of ", multiple));
  }
  if (args.num_kv_heads < 1 || args.num_kv_heads > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_kv_heads ", args.num_kv_heads, ": wanted 1 to 65535"));
  }
  const size_t num_pages = PagesFor(args.num_tokens);
  if (num_pages < 1 || num_pages > args.pages_per_head ||
      args.num_tokens > args.positions_row_stride) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_tokens ", args.num_tokens, ": wanted 1 to what ", args.pages_per_head,
                     " pages hold and to positions_row_stride ", args.positions_row_stride));
  }
  return absl::OkStatus();
}

template <class T, PageFormat kFormat>
absl::Status LaunchQuantize(cudaStream_t stream, const GatherPagesArgs& args) {
  return LaunchEarly(stream, dim3(PagesFor(args.num_tokens), args.num_kv_heads, 2),
                     dim3(kQuantizeThreads), QuantizeSharedBytes(args.head_dim),
                     QuantizeKernel<T, kFormat>, args);
}

}  // namespace

absl::Status GatherPages(cudaStream_t stream, const GatherPagesArgs& args) {
  return WithElementType(args.dtype, [&](auto element) -> absl::Status {
    using T = decltype(element);
    RETURN_IF_ERROR(Check(args));
    switch (args.format) {
      case PageFormat::kFp8: return LaunchQuantize<T, PageFormat::kFp8>(stream, args);
      case PageFormat::kInt8: return LaunchQuantize<T, PageFormat::kInt8>(stream, args);
      case PageFormat::kInt4: return LaunchQuantize<T, PageFormat::kInt4>(stream, args);
      default:
        return LaunchEarly(stream, dim3(PagesFor(args.num_tokens), args.num_kv_heads),
                           dim3(kThreads), 0, GatherKernel, args);
    }
  });
}

}  // namespace kvship::cuda
