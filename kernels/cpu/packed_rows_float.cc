#include "base/buffer.h"
#include "kernels/cpu/packed_rows.h"
#include "kernels/product.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/packed_rows_float.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Vec<D> LoadWeights(D d, const float* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> LoadWeights(D d, const bf16* p) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> d32;
  const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
  return hn::BitCast(d, hn::ShiftLeft<16>(bits));
}
template <class D>
HWY_INLINE hn::Vec<D> LoadWeights(D d, const f16* p) {
  const hn::Rebind<hwy::float16_t, D> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
}

template <class T>
HWY_INLINE float Dot(const T* weights, const float* x, size_t cols) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d), sum2 = hn::Zero(d), sum3 = hn::Zero(d);
  size_t k = 0;
  for (; k + 4 * lanes <= cols; k += 4 * lanes) {
    sum0 = hn::MulAdd(LoadWeights(d, weights + k), hn::LoadU(d, x + k), sum0);
    sum1 = hn::MulAdd(LoadWeights(d, weights + k + lanes), hn::LoadU(d, x + k + lanes), sum1);
    sum2 =
        hn::MulAdd(LoadWeights(d, weights + k + 2 * lanes), hn::LoadU(d, x + k + 2 * lanes), sum2);
    sum3 =
        hn::MulAdd(LoadWeights(d, weights + k + 3 * lanes), hn::LoadU(d, x + k + 3 * lanes), sum3);
  }
  for (; k + lanes <= cols; k += lanes) {
    sum0 = hn::MulAdd(LoadWeights(d, weights + k), hn::LoadU(d, x + k), sum0);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
  for (; k < cols; ++k) sum += ToFloat(weights[k]) * x[k];
  return sum;
}

template <class T>
void DotRow(const PackedRowsArgs& args, const T* weights, size_t n) {
  for (size_t m = 0; m < args.num_rows; ++m) {
    float* y = args.y + m * args.y_stride + n;
    const float sum = Dot(weights, args.x + m * args.x_stride, args.weights->cols);
    *y = args.accumulate ? *y + sum : sum;
  }
}

void PackedRowsFloat(const PackedRowsArgs& args) {
  const WeightView& weights = *args.weights;
  const bool plain = BlockOf(weights.format).num_weights == 1;
  Array<float> row(plain ? 0 : weights.cols);
  for (size_t n = 0; n < args.count; ++n) {
    const std::byte* data = weights.data + (args.begin + n) * weights.row_bytes();
    switch (weights.format) {
      case WeightFormat::kF32: DotRow(args, reinterpret_cast<const float*>(data), n); break;
      case WeightFormat::kF16: DotRow(args, reinterpret_cast<const f16*>(data), n); break;
      case WeightFormat::kBf16: DotRow(args, reinterpret_cast<const bf16*>(data), n); break;
      default:
        Dequantize(weights, args.begin + n, TensorView(row.data(), {1, weights.cols}));
        DotRow(args, row.data(), n);
    }
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
