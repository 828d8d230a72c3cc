// Keys as a block of lanes, for kernels whose rows are queries; compiled once per SIMD target.

#include <cstddef>

#include "base/tensor_view.h"
#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"

#if defined(KVSHIP_KERNELS_CPU_KEY_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_KEY_BLOCK_INL_H_
#undef KVSHIP_KERNELS_CPU_KEY_BLOCK_INL_H_
#else
#define KVSHIP_KERNELS_CPU_KEY_BLOCK_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

// Keys [first, first + num) of KV head h, one per lane: block [D, BlockLanes()], padded with zeros.
inline void LoadKeys(const TensorView& keys, size_t h, size_t first, size_t num, float* block) {
  const size_t lanes = BlockLanes();
  const size_t head_dim = keys.dims[2];
  for (size_t lane = 0; lane < lanes; ++lane) {
    if (lane < num) {
      const float* key = keys.f32(h, first + lane);
      for (size_t i = 0; i < head_dim; ++i) block[i * lanes + lane] = key[i];
    } else {
      for (size_t i = 0; i < head_dim; ++i) block[i * lanes + lane] = 0.0f;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // KVSHIP_KERNELS_CPU_KEY_BLOCK_INL_H_
