#include "kernels/cpu/byte_run.h"

#include "kernels/weight_blocks.h"

namespace kvship {

void LoadByteRun(WeightFormat format, const std::byte* row, size_t run, ByteRun* out) {
  WithQuantizedFormat(format, [&](auto tag) {
    constexpr WeightFormat kFormat = tag;
    constexpr WeightBlock kBlock = BlockOf(kFormat);
    constexpr size_t kRuns = kBlock.num_weights / kByteRun;
    const std::byte* block = row + run / kRuns * kBlock.num_bytes;
    const auto first = static_cast<uint32_t>(run % kRuns * kByteRun);
    for (uint32_t i = 0; i < kByteRun; ++i) {
      out->bytes[i] = static_cast<uint8_t>(CodeOf<kFormat>(block, first + i));
    }
    for (uint32_t half = 0; half < 2; ++half) {
      const WeightScale scale = ScaleOf<kFormat>(block, first + half * kByteRun / 2);
      out->scales[half] = scale.scale;
      out->minimums[half] = scale.minimum;
    }
  });
}

}  // namespace kvship
