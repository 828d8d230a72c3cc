#include "kernels/moments.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/moments.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/key_block-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

using DoubleTag = hn::ScalableTag<double>;
using DoubleVec = hn::Vec<DoubleTag>;

// A tile of products is this many rows of this many vectors: eight sums in registers, enough to
// hide the latency of FMA, with two vectors and a broadcast beside them in AVX2's 16.
constexpr size_t kTileRows = 4;
constexpr size_t kTileVectors = 2;

// Columns of a head as doubles, padded with zeros to whole tiles.
size_t PaddedDim(size_t head_dim) {
  const size_t tile = std::max(kTileRows, kTileVectors * hn::Lanes(DoubleTag()));
  return (head_dim + tile - 1) / tile * tile;
}

// tile[r, c] += sum over m of x[m, row + r] x[m, column + c], x [M, stride].
void MultiplyTile(const double* HWY_RESTRICT x, size_t num_rows, size_t stride, size_t row,
                  size_t column, double* HWY_RESTRICT tile) {
  const DoubleTag d;
  const size_t lanes = hn::Lanes(d);
  DoubleVec sum[kTileRows][kTileVectors];
#pragma GCC unroll 4
  for (size_t r = 0; r < kTileRows; ++r) {
    sum[r][0] = hn::Load(d, tile + r * kTileVectors * lanes);
    sum[r][1] = hn::Load(d, tile + r * kTileVectors * lanes + lanes);
  }
  for (size_t m = 0; m < num_rows; ++m, x += stride) {
    const DoubleVec b0 = hn::Load(d, x + column);
    const DoubleVec b1 = hn::Load(d, x + column + lanes);
#pragma GCC unroll 4
    for (size_t r = 0; r < kTileRows; ++r) {
      const DoubleVec a = hn::Set(d, x[row + r]);
      sum[r][0] = hn::MulAdd(a, b0, sum[r][0]);
      sum[r][1] = hn::MulAdd(a, b1, sum[r][1]);
    }
  }
#pragma GCC unroll 4
  for (size_t r = 0; r < kTileRows; ++r) {
    hn::Store(sum[r][0], d, tile + r * kTileVectors * lanes);
    hn::Store(sum[r][1], d, tile + r * kTileVectors * lanes + lanes);
  }
}

// Adds one tile of products [D, D], whose part past D is left out.
void AddTile(const double* x, size_t num_rows, size_t stride, size_t row, size_t column,
             size_t head_dim, double* products) {
  const size_t tile_columns = kTileVectors * hn::Lanes(DoubleTag());
  HWY_ALIGN double tile[kTileRows * kTileVectors * HWY_MAX_BYTES / sizeof(double)] = {};
  const size_t rows = std::min(kTileRows, head_dim - row);
  const size_t columns = std::min(tile_columns, head_dim - column);
  double* const out = products + row * head_dim + column;
  for (size_t r = 0; r < rows; ++r) {
    std::copy_n(out + r * head_dim, columns, tile + r * tile_columns);
  }
  MultiplyTile(x, num_rows, stride, row, column, tile);
  for (size_t r = 0; r < rows; ++r) {
    std::copy_n(tile + r * tile_columns, columns, out + r * head_dim);
  }
}

void AddHeadMoments(const TensorView& x, size_t head, double* rows, double* sums,
                    double* products) {
  const auto [num_rows, num_heads, head_dim, unused] = x.dims;
  const size_t stride = PaddedDim(head_dim);
  for (size_t m = 0; m < num_rows; ++m) {
    const float* const from = x.f32(m, head);
    double* const to = rows + m * stride;
    std::copy_n(from, head_dim, to);
    std::fill(to + head_dim, to + stride, 0.0);
    for (size_t i = 0; i < head_dim; ++i) sums[i] += to[i];
  }
  const size_t tile_columns = kTileVectors * hn::Lanes(DoubleTag());
  for (size_t row = 0; row < head_dim; row += kTileRows) {
    // From the tile on that holds the diagonal.
    for (size_t column = row / tile_columns * tile_columns; column < head_dim;
         column += tile_columns) {
      AddTile(rows, num_rows, stride, row, column, head_dim, products);
    }
  }
}

void AddAllMoments(Backend& backend, const TensorView& x, double* sums, double* products) {
  const size_t num_heads = x.dims[1];
  const size_t head_dim = x.dims[2];
  const size_t doubles_per_thread = x.dims[0] * PaddedDim(head_dim);
  double* const scratch = reinterpret_cast<double*>(
      backend.Scratch(backend.threads().num_threads() * doubles_per_thread * sizeof(double)));
  backend.threads().ParallelForWithThread(num_heads, [&](size_t head, size_t thread) {
    AddHeadMoments(x, head, scratch + thread * doubles_per_thread, sums + head * head_dim,
                   products + head * head_dim * head_dim);
  });
}

// Memory of one thread, in floats: keys [D, lanes], products [D, lanes].
size_t LogitScratchFloats(size_t head_dim) { return 2 * head_dim * BlockLanes(); }

// logits[i] = sum over a of k[a] (mean[a] / sqrt(D) + (covariance k)[a] / (2 D)).
void BlockLogits(const float* mean, const float* covariance, const float* block, size_t head_dim,
                 size_t num_keys, float* products, float* logits) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  MultiplyAllRows(covariance, head_dim, head_dim, block, head_dim, products);
  const float of_mean = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const FloatVec of_product = hn::Set(d, 0.5f / static_cast<float>(head_dim));
  for (size_t v = 0; v * lanes < num_keys; ++v) {
    FloatVec sum = hn::Zero(d);
    for (size_t a = 0; a < head_dim; ++a) {
      const size_t at = a * BlockLanes() + v * lanes;
      const FloatVec slope =
          hn::MulAdd(hn::Load(d, products + at), of_product, hn::Set(d, mean[a] * of_mean));
      sum = hn::MulAdd(hn::Load(d, block + at), slope, sum);
    }
    hn::Store(sum, d, products + v * lanes);  // vector v of row 0 is not needed again
  }
  std::copy_n(products, num_keys, logits);
}

void AllExpectedLogits(Backend& backend, const ExpectedLogitsArgs& args) {
  const size_t kv_heads = args.keys.dims[0];
  const size_t num_tokens = args.keys.dims[1];
  const size_t head_dim = args.keys.dims[2];
  const size_t group = args.mean.dims[0] / kv_heads;
  const size_t block_lanes = BlockLanes();
  const size_t num_blocks = (num_tokens + block_lanes - 1) / block_lanes;
  const size_t floats_per_thread = LogitScratchFloats(head_dim);
  float* const scratch = reinterpret_cast<float*>(
      backend.Scratch(backend.threads().num_threads() * floats_per_thread * sizeof(float)));
  backend.threads().ParallelForWithThread(kv_heads * num_blocks, [&](size_t task, size_t thread) {
    const size_t h = task / num_blocks;
    const size_t first = task % num_blocks * block_lanes;
    const size_t num_keys = std::min(block_lanes, num_tokens - first);
    float* const block = scratch + thread * floats_per_thread;
    LoadKeys(args.keys, h, first, num_keys, block);
    for (size_t head = h * group; head < (h + 1) * group; ++head) {
      BlockLogits(args.mean.f32(head), args.covariance.f32(head), block, head_dim, num_keys,
                  block + head_dim * block_lanes, args.logits.f32(head) + first);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {
namespace {

HWY_EXPORT(AddAllMoments);
HWY_EXPORT(AllExpectedLogits);

absl::Status Wanted(const char* what, const char* wanted) {
  return absl::InvalidArgumentError(absl::StrCat(what, " does not fit; wanted ", wanted));
}

}  // namespace

absl::Status AddMoments(Backend& backend, TensorView x, std::span<double> sums,
                        std::span<double> products) {
  if (x.rank != 3) return Wanted("x of moments", "[M, heads, D]");
  if (sums.size() != x.dims[1] * x.dims[2]) return Wanted("sums of moments", "[heads, D]");
  if (products.size() != sums.size() * x.dims[2]) {
    return Wanted("products of moments", "[heads, D, D]");
  }
  HWY_DYNAMIC_DISPATCH(AddAllMoments)(backend, x, sums.data(), products.data());
  return absl::OkStatus();
}

absl::Status ExpectedLogits(Backend& backend, const ExpectedLogitsArgs& args) {
  const auto& [mean, covariance, keys, logits] = args;
  if (keys.rank != 3 || mean.rank != 2 || keys.dims[0] == 0 || mean.dims[0] % keys.dims[0] != 0 ||
      mean.dims[1] != keys.dims[2]) {
    return Wanted("mean of expected logits", "[Hq, D] for keys [H, T, D]");
  }
  if (covariance.rank != 3 || covariance.dims[0] != mean.dims[0] ||
      covariance.dims[1] != mean.dims[1] || covariance.dims[2] != mean.dims[1]) {
    return Wanted("covariance of expected logits", "[Hq, D, D]");
  }
  if (logits.rank != 2 || logits.dims[0] != mean.dims[0] || logits.dims[1] != keys.dims[1]) {
    return Wanted("logits", "[Hq, T]");
  }
  HWY_DYNAMIC_DISPATCH(AllExpectedLogits)(backend, args);
  return absl::OkStatus();
}

}  // namespace kvship
#endif  // HWY_ONCE
