#include <cstring>

#include "kernels/cpu/product_tiles.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/float_tiles.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/word_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

struct FloatWords {
  template <class V>
  static HWY_INLINE V Add(V sum, V weights, V x) {
    return hn::MulAdd(weights, x, sum);
  }
};

void FloatTileProduct(const TileProductArgs& args) { WordProduct<FloatWords>(args); }

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {

HWY_EXPORT(FloatTileProduct);

void FloatTileProduct(const TileProductArgs& args) { HWY_DYNAMIC_DISPATCH(FloatTileProduct)(args); }

void FloatPanels(const float* x, size_t x_stride, size_t num_rows, size_t cols, float* words) {
  for (size_t row = 0; row < num_rows; ++row, x += x_stride) {
    float* to =
        words + row / kWordPanelRows * WordPanelSize(cols) + row % kWordPanelRows * kChunkWords;
    for (size_t begin = 0; begin < cols; begin += kChunkWords) {
      const size_t count = std::min(kChunkWords, cols - begin);
      std::memcpy(to, x + begin, count * sizeof(float));
      to += kWordPanelRows * kChunkWords;
    }
  }
}

}  // namespace kvship
#endif  // HWY_ONCE
