#include <algorithm>
#include <cassert>

#include "kernels/cpu/product_tiles.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/byte_tiles.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/byte_dot-inl.h"
#include "kernels/cpu/finish_row-inl.h"
#include "kernels/cpu/processor.h"

#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace kvship {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3

// Rows missing from the last panel are left alone.
void RoundPanels(const float* x, size_t x_stride, size_t num_rows, size_t cols,
                 const RoundedRows& rounded) {
  const size_t runs = cols / kByteRun;
  for (size_t row = 0; row < num_rows; ++row, x += x_stride) {
    const size_t panel = row / kPanelRows, r = row % kPanelRows;
    int8_t* bytes = rounded.bytes + panel * RoundedPanelBytes(cols) + r * kByteRun;
    float* scales = rounded.scales + panel * RoundedPanelScales(cols) + r * 2;
    for (size_t run = 0; run < runs; ++run) {
      RoundRun(x + run * kByteRun, bytes + run * kPanelRows * kByteRun,
               scales + run * kPanelRows * 2);
    }
  }
}

// One tile for kRows rows of a panel. kSteps products of four columns fit in the processor's
// integer sums before they are widened.
template <size_t kRows, size_t kSteps>
HWY_INLINE void ByteKernel(const std::byte* tile, const int8_t* x, const float* x_scales,
                           size_t num_runs, float* sums) {
  using D = ByteDot;
  constexpr size_t kTileBytes = kTileRows * 4;
  for (size_t column = 0; column < kTileRows; column += 2 * D::kLanes) {
    D::Floats sum[kRows][2];
    for (size_t r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = D::ZeroFloats();
    const std::byte* w = tile + column * 4;
    const int8_t* xr = x;
    const float* xs = x_scales;
    for (size_t run = 0; run < num_runs; ++run) {
      const auto* scales = reinterpret_cast<const float*>(w + 8 * kTileBytes - column * 4) + column;
      const auto* minimums = scales + kTileRows;
      HWY_UNROLL(2)
      for (size_t part = 0; part < 8; part += kSteps) {
        D::Ints dot[kRows][2];
        HWY_UNROLL(8)
        for (size_t s = part; s < part + kSteps; ++s) {
          const D::Ints w0 = D::Load(w + s * kTileBytes);
          const D::Ints w1 = D::Load(w + s * kTileBytes + 4 * D::kLanes);
          HWY_UNROLL(8)
          for (size_t r = 0; r < kRows; ++r) {
            const D::Ints four = D::Repeat4(xr + r * kByteRun + 4 * s);
            dot[r][0] = D::MulAdd(s == part ? D::ZeroInts() : dot[r][0], w0, four);
            dot[r][1] = D::MulAdd(s == part ? D::ZeroInts() : dot[r][1], w1, four);
          }
        }
        const D::Floats scale0 = D::LoadFloats(scales), scale1 = D::LoadFloats(scales + D::kLanes);
        HWY_UNROLL(8)
        for (size_t r = 0; r < kRows; ++r) {
          const D::Floats step = D::Repeat(xs[2 * r]);
          sum[r][0] = D::MulAdd(D::ToFloats(dot[r][0]), D::Mul(scale0, step), sum[r][0]);
          sum[r][1] = D::MulAdd(D::ToFloats(dot[r][1]), D::Mul(scale1, step), sum[r][1]);
        }
      }
      const D::Floats min0 = D::LoadFloats(minimums), min1 = D::LoadFloats(minimums + D::kLanes);
      HWY_UNROLL(8)
      for (size_t r = 0; r < kRows; ++r) {
        const D::Floats total = D::Repeat(xs[2 * r + 1]);
        sum[r][0] = D::MulAdd(min0, total, sum[r][0]);
        sum[r][1] = D::MulAdd(min1, total, sum[r][1]);
      }
      w += kByteTileRunBytes;
      xr += kPanelRows * kByteRun;
      xs += kPanelRows * 2;
    }
    for (size_t r = 0; r < kRows; ++r) {
      D::Store(sum[r][0], sums + r * kTileRows + column);
      D::Store(sum[r][1], sums + r * kTileRows + column + D::kLanes);
    }
  }
}

template <size_t kSteps>
HWY_INLINE void BytePanel(size_t rows, const std::byte* tile, const int8_t* x,
                          const float* x_scales, size_t runs, float* sums) {
  constexpr size_t kAtOnce = ByteDot::kPanelRows;
  for (; rows >= kAtOnce; rows -= kAtOnce) {
    ByteKernel<kAtOnce, kSteps>(tile, x, x_scales, runs, sums);
    x += kAtOnce * kByteRun;
    x_scales += kAtOnce * 2;
    sums += kAtOnce * kTileRows;
  }
  switch (rows) {
    case 0: return;
    case 1: return ByteKernel<1, kSteps>(tile, x, x_scales, runs, sums);
    case 2: return ByteKernel<2, kSteps>(tile, x, x_scales, runs, sums);
    case 3: return ByteKernel<3, kSteps>(tile, x, x_scales, runs, sums);
    case 4: return ByteKernel<4, kSteps>(tile, x, x_scales, runs, sums);
    case 5: return ByteKernel<5, kSteps>(tile, x, x_scales, runs, sums);
    default: assert(false);
  }
}

template <size_t kSteps>
void ByteTiles(const TileProductArgs& args) {
  alignas(64) float sums[kPanelRows * kTileRows];
  const size_t runs = args.cols / kByteRun;
  for (size_t column = 0; column < args.weight_rows; column += kTileRows) {
    const std::byte* tile = args.tiles + column / kTileRows * ByteTileBytes(args.cols);
    const size_t count = std::min(kTileRows, args.weight_rows - column);
    for (size_t row = 0, panel = 0; row < args.num_rows; ++panel) {
      const size_t rows = std::min(kPanelRows, args.num_rows - row);
      BytePanel<kSteps>(rows, tile, args.rounded.bytes + panel * RoundedPanelBytes(args.cols),
                        args.rounded.scales + panel * RoundedPanelScales(args.cols), runs, sums);
      for (size_t r = 0; r < rows; ++r, ++row) {
        FinishRow(sums + r * kTileRows, count, args.accumulate,
                  args.y + row * args.y_stride + column);
      }
    }
  }
}

void ByteTileProduct(const TileProductArgs& args) {
  if (args.largest_byte <= ByteDot::LargestByteForSteps(8)) return ByteTiles<8>(args);
  assert(args.largest_byte <= ByteDot::LargestByteForSteps(4));
  ByteTiles<4>(args);
}
uint32_t LargestFastByte() { return ByteDot::LargestByteForSteps(4); }
uint32_t LargestByteOfWholeRuns() { return ByteDot::LargestByteForSteps(8); }

#else

void RoundPanels(const float*, size_t, size_t, size_t, const RoundedRows&) { assert(false); }
void ByteTileProduct(const TileProductArgs&) { assert(false); }
uint32_t LargestFastByte() { return 0; }
uint32_t LargestByteOfWholeRuns() { return 0; }

#endif  // AVX2 or AVX-512

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {

HWY_EXPORT(RoundPanels);
HWY_EXPORT(ByteTileProduct);
HWY_EXPORT(LargestFastByte);
HWY_EXPORT(LargestByteOfWholeRuns);

// The AVX-512 forms are compiled with VNNI, which the first AVX-512 processors lack.
void RoundPanels(const float* x, size_t x_stride, size_t num_rows, size_t cols,
                 const RoundedRows& rounded) {
#if HWY_ARCH_X86
  if (UseAvx2InsteadOfAvx3()) return N_AVX2::RoundPanels(x, x_stride, num_rows, cols, rounded);
#endif
  HWY_DYNAMIC_DISPATCH(RoundPanels)(x, x_stride, num_rows, cols, rounded);
}

void ByteTileProduct(const TileProductArgs& args) {
#if HWY_ARCH_X86
  if (UseAvx2InsteadOfAvx3()) return N_AVX2::ByteTileProduct(args);
#endif
  HWY_DYNAMIC_DISPATCH(ByteTileProduct)(args);
}

uint32_t LargestFastByte() {
#if HWY_ARCH_X86
  if (UseAvx2InsteadOfAvx3()) return N_AVX2::LargestFastByte();
#endif
  return HWY_DYNAMIC_DISPATCH(LargestFastByte)();
}

uint32_t LargestByteOfWholeRuns() {
#if HWY_ARCH_X86
  if (UseAvx2InsteadOfAvx3()) return N_AVX2::LargestByteOfWholeRuns();
#endif
  return HWY_DYNAMIC_DISPATCH(LargestByteOfWholeRuns)();
}

}  // namespace kvship
#endif  // HWY_ONCE
