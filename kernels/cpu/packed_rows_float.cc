#include "base/buffer.h"
#include "kernels/cpu/packed_rows.h"
#include "kernels/product.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/packed_rows_float.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/packed_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

using Floats = hn::Vec<hn::ScalableTag<float>>;

HWY_INLINE Floats LoadWeights(const float* p) { return hn::LoadU(hn::ScalableTag<float>(), p); }
HWY_INLINE Floats LoadWeights(const bf16* p) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<uint16_t, decltype(d)> d16;
  const hn::Rebind<uint32_t, decltype(d)> d32;
  const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
  return hn::BitCast(d, hn::ShiftLeft<16>(bits));
}
HWY_INLINE Floats LoadWeights(const f16* p) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
}

template <class T>
struct FloatProducts {
  using Weight = T;
  using X = float;
  static constexpr size_t kStep = hn::MaxLanes(hn::ScalableTag<float>());
  static HWY_INLINE Floats Load(const T* weights) { return LoadWeights(weights); }
  static HWY_INLINE Floats Add(Floats sum, Floats weights, const float* x) {
    return hn::MulAdd(weights, hn::LoadU(hn::ScalableTag<float>(), x), sum);
  }
  static HWY_INLINE const float* Row(const PackedRowsArgs& args, size_t m) {
    return args.x + m * args.x_stride;
  }
};

// Each row as floats first.
void BlockRows(const PackedRowsArgs& args) {
  const size_t cols = args.weights->cols;
  Array<float> row(cols);
  const WeightView floats{reinterpret_cast<const std::byte*>(row.data()), WeightFormat::kF32, 1,
                          cols};
  PackedRowsArgs one = args;
  one.weights = &floats;
  one.begin = 0;
  one.count = 1;
  for (size_t n = 0; n < args.count; ++n) {
    Dequantize(*args.weights, args.begin + n, TensorView(row.data(), {1, cols}));
    one.y = args.y + n;
    PlainRows<FloatProducts<float>>(one);
  }
}

void PackedRowsFloat(const PackedRowsArgs& args) {
  switch (args.weights->format) {
    case WeightFormat::kF32: return PlainRows<FloatProducts<float>>(args);
    case WeightFormat::kF16: return PlainRows<FloatProducts<f16>>(args);
    case WeightFormat::kBf16: return PlainRows<FloatProducts<bf16>>(args);
    default: return BlockRows(args);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {

HWY_EXPORT(PackedRowsFloat);

void PackedRowsFloat(const PackedRowsArgs& args) { HWY_DYNAMIC_DISPATCH(PackedRowsFloat)(args); }

}  // namespace kvship
#endif  // HWY_ONCE
