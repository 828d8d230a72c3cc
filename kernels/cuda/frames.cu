#include "base/status_macros.h"
#include "kernels/cuda/crc32c_tile.cuh"
#include "kernels/cuda/frames.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/page_layout.h"

namespace kvship::cuda {
namespace {

constexpr int kWordBytes = 4;
constexpr int kTileWords = kCrc32cTileBytes / kWordBytes;
constexpr int kFrameWords = kMostFrameBytes / kWordBytes;
static_assert(kMostLaidHeads == kCrc32cThreads);  // a thread per head

// A head's words in the layer, or, behind the last head, all tails.
struct Part {
  int begin;
  int num_positions;
  const uint32_t* positions;
  const uint32_t* pages;
};

struct Shared {
  Crc32cShared crc32c;
  Part parts[kMostLaidHeads + 1];
  int num_words;
};

__device__ void FindParts(const LayFramesArgs& args, Shared& shared) {
  const int heads = static_cast<int>(args.num_heads);
  const int page_words = static_cast<int>(args.page_bytes) / kWordBytes;
  const int own = threadIdx.x;
  if (own >= heads) return;
  int pages = 0;
  for (int h = 0; h < own; ++h) {
    pages += static_cast<int>(PagesFor(static_cast<size_t>(args.offsets[h + 1] - args.offsets[h])));
  }
  const int first = args.offsets[own], end = args.offsets[own + 1];
  const bool sent = args.positions != nullptr;
  const auto* all_pages = reinterpret_cast<const uint32_t*>(args.pages);
  shared.parts[own] = {(sent ? first : 0) + pages * page_words, sent ? end - first : 0,
                       reinterpret_cast<const uint32_t*>(args.positions) + first,
                       all_pages + static_cast<size_t>(pages) * page_words};
  if (own + 1 < heads) return;
  pages += static_cast<int>(PagesFor(static_cast<size_t>(end - first)));
  const int tails_begin = (sent ? end : 0) + pages * page_words;
  shared.parts[heads] = {tails_begin, 0, nullptr, reinterpret_cast<const uint32_t*>(args.tails)};
  shared.num_words = tails_begin + static_cast<int>(args.tail_bytes) / kWordBytes;
}

// The last part that begins at or before the word.
__device__ int PartOf(const Shared& shared, int num_heads, int word) {
  int first = 0, last = num_heads;
  while (first < last) {
    const int middle = (first + last + 1) / 2;
    if (shared.parts[middle].begin <= word) {
      first = middle;
    } else {
      last = middle - 1;
    }
  }
  return first;
}

// Words of a tile of `frame_words`: [begin, end).
struct Tile {
  int begin;
  int end;
};
__device__ Tile TileOf(int frame_words, int tile) {
  const int num_tiles = (frame_words + kTileWords - 1) / kTileWords;
  const int end = frame_words - (num_tiles - 1 - tile) * kTileWords;
  return {max(end - kTileWords, 0), end};
}

__global__ void __launch_bounds__(kCrc32cThreads) LayFramesKernel(const LayFramesArgs args) {
  __shared__ Shared shared;
  FillCrc32cTables(shared.crc32c);
  WaitForTheKernelBefore();
  FindParts(args, shared);
  __syncthreads();
  const int num_heads = static_cast<int>(args.num_heads);
  const int frame_begin = static_cast<int>(blockIdx.y) * kFrameWords;
  const int frame_words = min(shared.num_words - frame_begin, kFrameWords);
  const Tile tile = TileOf(frame_words, static_cast<int>(blockIdx.x));
  if (tile.end > frame_words) return;  // the frame has fewer tiles
  auto* const frame = reinterpret_cast<uint32_t*>(args.frames[blockIdx.y]);
  int part = -1;
  const auto lay = [&](int r) {
    const int in_frame = tile.end - 1 - r;
    const int word = frame_begin + in_frame;
    if (part < 0) part = PartOf(shared, num_heads, word);
    while (part < num_heads && word >= shared.parts[part + 1].begin) ++part;
    const Part& from = shared.parts[part];
    const int within = word - from.begin;
    const uint32_t laid = within < from.num_positions ? from.positions[within]
                                                      : from.pages[within - from.num_positions];
    frame[in_frame] = laid;
    return laid;
  };
  const uint32_t remainder = Crc32cRemainder(tile.end - tile.begin, lay, shared.crc32c);
  if (threadIdx.x == 0) args.remainders[blockIdx.y * kFrameTiles + blockIdx.x] = remainder;
}

__global__ void __launch_bounds__(kCrc32cThreads)
    FrameRemaindersKernel(const uint32_t* frame, int num_words, uint32_t* remainders) {
  __shared__ Crc32cShared shared;
  FillCrc32cTables(shared);
  __syncthreads();
  const Tile tile = TileOf(num_words, static_cast<int>(blockIdx.x));
  const uint32_t remainder = Crc32cRemainder(
      tile.end - tile.begin, [&](int r) { return frame[tile.end - 1 - r]; }, shared);
  if (threadIdx.x == 0) remainders[blockIdx.x] = remainder;
}

absl::Status Check(const LayFramesArgs& args) {
  const auto in_range = [](const char* name, size_t value, size_t most) {
    if (value >= 1 && value <= most) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(name, " ", value, ": wanted 1 to ", most));
  };
  const auto in_words = [](const char* name, size_t value) {
    if (value % kWordBytes == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(name, " ", value, ": wanted a multiple of 4"));
  };
  RETURN_IF_ERROR(in_range("num_heads", args.num_heads, kMostLaidHeads));
  RETURN_IF_ERROR(in_range("num_frames", args.num_frames, kMostLaidFrames));
  RETURN_IF_ERROR(in_words("page_bytes", args.page_bytes));
  return in_words("tail_bytes", args.tail_bytes);
}

}  // namespace

absl::Status LayFrames(cudaStream_t stream, const LayFramesArgs& args) {
  RETURN_IF_ERROR(Check(args));
  return LaunchEarly(stream, dim3(kFrameTiles, static_cast<unsigned>(args.num_frames)),
                     dim3(kCrc32cThreads), 0, LayFramesKernel, args);
}

absl::Status FrameRemainders(cudaStream_t stream, const std::byte* frame, size_t num_bytes,
                             uint32_t* remainders) {
  if (num_bytes == 0 || num_bytes > kMostFrameBytes || num_bytes % kWordBytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_bytes ", num_bytes, ": wanted a multiple of 4 from 4 to ", kMostFrameBytes));
  }
  return Launch(stream, dim3(static_cast<unsigned>(NumCrc32cTiles(num_bytes))),
                dim3(kCrc32cThreads), 0, FrameRemaindersKernel,
                reinterpret_cast<const uint32_t*>(frame), static_cast<int>(num_bytes / kWordBytes),
                remainders);
}

}  // namespace kvship::cuda
