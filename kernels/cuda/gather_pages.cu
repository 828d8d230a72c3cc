#include <type_traits>

#include "base/status_macros.h"
#include "kernels/cuda/gather_pages.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/page_tokens.cuh"
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
  const PageTokens own = TokensOfPage(args, blockIdx.x);
  if (own.num_tokens == 0) return;
  const int row_chunks = static_cast<int>(args.head_dim) / kChunkElements;
  const int half_chunks = static_cast<int>(kPageTokens) * row_chunks;
  const size_t head_offset = own.head * args.head_stride * kElementBytes;
  const std::byte* keys = static_cast<const std::byte*>(args.keys) + head_offset;
  const std::byte* values = static_cast<const std::byte*>(args.values) + head_offset;
  std::byte* page = args.pages + static_cast<size_t>(blockIdx.x) * 2 * half_chunks * kChunkBytes;
#pragma unroll 4
  for (int i = threadIdx.x; i < 2 * half_chunks; i += kThreads) {
    const int chunk = i % half_chunks;
    const int row = chunk / row_chunks;
    uint4 bytes = make_uint4(0, 0, 0, 0);
    if (row < own.num_tokens) {
      const std::byte* tensor = i < half_chunks ? keys : values;
      const size_t from = static_cast<size_t>(own.positions[row]) * args.head_dim * kElementBytes +
                          static_cast<size_t>(chunk % row_chunks) * kChunkBytes;
      bytes = *reinterpret_cast<const uint4*>(tensor + from);
    }
    *reinterpret_cast<uint4*>(page + static_cast<size_t>(i) * kChunkBytes) = bytes;
  }
}

absl::Status Check(const GatherPagesArgs& args) {
  const bool has_groups = args.format == PageFormat::kInt8 || args.format == PageFormat::kInt4;
  const size_t multiple = has_groups ? kValueGroup : size_t{kChunkElements};
  if (args.head_dim < 1 || args.head_dim % multiple != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_dim ", args.head_dim, ": wanted a multiple of ", multiple));
  }
  if (args.num_kv_heads < 1 || args.sets_per_head < 1 || args.most_pages < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_kv_heads ", args.num_kv_heads, ", sets_per_head ", args.sets_per_head,
                     ", most_pages ", args.most_pages, ": wanted at least 1 of each"));
  }
  return absl::OkStatus();
}

template <class T>
constexpr PageFormat kOther16Bits = std::is_same_v<T, f16> ? PageFormat::kBf16 : PageFormat::kF16;

template <class T, PageFormat kFormat>
absl::Status LaunchEncode(cudaStream_t stream, const GatherPagesArgs& args) {
  const size_t shared_bytes = IsQuantized(kFormat) ? QuantizeSharedBytes(args.head_dim) : 0;
  return LaunchEarly(stream, dim3(args.most_pages, 2), dim3(kQuantizeThreads), shared_bytes,
                     EncodeKernel<T, kFormat>, args);
}

}  // namespace

absl::Status GatherPages(cudaStream_t stream, const GatherPagesArgs& args) {
  return WithElementType(args.dtype, [&](auto element) -> absl::Status {
    using T = decltype(element);
    RETURN_IF_ERROR(Check(args));
    if (args.format == PageFormatOf(args.dtype)) {
      return LaunchEarly(stream, dim3(args.most_pages), dim3(kThreads), 0, GatherKernel, args);
    }
    switch (args.format) {
      case PageFormat::kF32: return LaunchEncode<T, PageFormat::kF32>(stream, args);
      case PageFormat::kF16:
      case PageFormat::kBf16: return LaunchEncode<T, kOther16Bits<T>>(stream, args);
      case PageFormat::kFp8: return LaunchEncode<T, PageFormat::kFp8>(stream, args);
      case PageFormat::kInt8: return LaunchEncode<T, PageFormat::kInt8>(stream, args);
      case PageFormat::kInt4: return LaunchEncode<T, PageFormat::kInt4>(stream, args);
    }
    return absl::InvalidArgumentError("format: wanted one of kernels/page_layout.h");
  });
}

}  // namespace kvship::cuda
