#include "bench/kernels/cuda/frames_bench.h"

#include <vector>

#include "kernels/cuda/frames.h"
#include "kernels/page_layout.h"

namespace kvship::cuda {

void BenchFrames(Bench& bench, size_t kept) {
  constexpr size_t kHeads = 8, kHeadDim = 128;
  const size_t page_bytes = PageBytes(PageFormat::kBf16, kHeadDim);
  const DeviceBytes pages(kHeads * PagesFor(kept) * page_bytes);
  const DeviceBytes positions(kHeads * kept * sizeof(int32_t));
  FillNormalBf16(pages);
  FillNormalBf16(positions);
  std::vector<int32_t> ends;
  for (size_t h = 0; h <= kHeads; ++h) ends.push_back(static_cast<int32_t>(h * kept));
  const DeviceBytes offsets(std::as_bytes(std::span(ends)));
  const size_t num_bytes = pages.num_bytes() + positions.num_bytes();
  const size_t num_frames = NumFrames(num_bytes);
  const DeviceBytes frames(num_frames * kMostFrameBytes);
  const DeviceBytes remainders(num_frames * kFrameTiles * sizeof(uint32_t));
  LayFramesArgs args = {.offsets = offsets.as<int32_t>(),
                        .positions = positions.as<int32_t>(),
                        .pages = pages.data(),
                        .num_heads = kHeads,
                        .page_bytes = page_bytes,
                        .num_frames = num_frames,
                        .remainders = remainders.as<uint32_t>()};
  for (size_t i = 0; i < num_frames; ++i) args.frames[i] = frames.data() + i * kMostFrameBytes;
  bench.Time("lay_frames", Label("H 8 k %zu", kept), 2.0 * static_cast<double>(num_bytes), 0, 1,
             [&](size_t, cudaStream_t stream) { return LayFrames(stream, args); });
  bench.Time("frame_remainders", "1 MiB", kMostFrameBytes, 0, num_frames,
             [&](size_t set, cudaStream_t stream) {
               return FrameRemainders(stream, args.frames[set], kMostFrameBytes, args.remainders);
             });
}

}  // namespace kvship::cuda
