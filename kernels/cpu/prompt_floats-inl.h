// The products of prompt attention in float32, compiled once per SIMD target.

#if defined(KVSHIP_KERNELS_CPU_PROMPT_FLOATS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_PROMPT_FLOATS_INL_H_
#undef KVSHIP_KERNELS_CPU_PROMPT_FLOATS_INL_H_
#else
#define KVSHIP_KERNELS_CPU_PROMPT_FLOATS_INL_H_
#endif

#include <cmath>

#include "kernels/cpu/prompt_block-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

// Straight on the keys and values.
class FloatTiles {
 public:
  explicit FloatTiles(const PromptAttentionArgs& args)
      : keys_(args.keys),
        values_(args.values),
        head_dim_(args.q.dims[2]),
        // Scores come out in units of log 2, for Exp2.
        scale_(static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(head_dim_)))) {}

  void LoadQuery(const float* query, float* block, size_t lane) const {
    for (size_t i = 0; i < head_dim_; ++i) block[i * BlockLanes() + lane] = query[i] * scale_;
  }

  void Score(size_t kv_head, size_t begin, size_t num_keys, const BlockState& state,
             float* scores) const {
    MultiplyAllRows(keys_.f32(kv_head, begin), keys_.strides[1], num_keys, state.query, head_dim_,
                    scores);
  }

  static HWY_INLINE void StoreProbabilities(FloatVec p0, FloatVec p1, size_t key, float* column) {
    hn::Store(p0, FloatTag(), column + key * BlockLanes());
    hn::Store(p1, FloatTag(), column + (key + 1) * BlockLanes());
  }

  void AddValues(size_t kv_head, size_t begin, size_t num_keys, const BlockState& state,
                 const float* scores) const {
    const float* const values = values_.f32(kv_head, begin);
    size_t i = 0;
    for (; i + kBlockRows <= head_dim_; i += kBlockRows) {
      AddColumns<kBlockRows>(values + i, num_keys, scores, state.factor,
                             state.out + i * BlockLanes());
    }
    for (; i < head_dim_; ++i) {
      AddColumns<1>(values + i, num_keys, scores, state.factor, state.out + i * BlockLanes());
    }
  }

 private:
  // out[i][lane] = out * factor + sum over j of values[j][i] * p[j][lane], kColumns of i.
  template <size_t kColumns>
  HWY_INLINE void AddColumns(const float* HWY_RESTRICT values, size_t num_keys,
                             const float* HWY_RESTRICT p, const float* HWY_RESTRICT factor,
                             float* HWY_RESTRICT out) const {
    const FloatTag d;
    const size_t lanes = hn::Lanes(d);
    const size_t stride = values_.strides[1];
    FloatVec sum[kColumns][kBlockVectors];
#pragma GCC unroll 8
    for (size_t i = 0; i < kColumns; ++i) {
      sum[i][0] = sum[i][1] = sum[i][2] = hn::Zero(d);
    }
    for (size_t j = 0; j < num_keys; ++j, p += kBlockVectors * lanes, values += stride) {
      const FloatVec p0 = hn::Load(d, p);
      const FloatVec p1 = hn::Load(d, p + lanes);
      const FloatVec p2 = hn::Load(d, p + 2 * lanes);
#pragma GCC unroll 8
      for (size_t i = 0; i < kColumns; ++i) {
        const FloatVec value = hn::Set(d, values[i]);
        sum[i][0] = hn::MulAdd(value, p0, sum[i][0]);
        sum[i][1] = hn::MulAdd(value, p1, sum[i][1]);
        sum[i][2] = hn::MulAdd(value, p2, sum[i][2]);
      }
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < kColumns; ++i) AddScaled(sum[i], factor, out + i * BlockLanes());
  }

  TensorView keys_;
  TensorView values_;
  size_t head_dim_;
  float scale_;
};

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // KVSHIP_KERNELS_CPU_PROMPT_FLOATS_INL_H_
