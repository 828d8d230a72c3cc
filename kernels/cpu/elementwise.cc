#include "kernels/elementwise.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/product.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
// foreach_target.h has to come first.
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void RmsNormRow(const float* x, const float* weight, size_t cols, float epsilon, float* out) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d);
  size_t i = 0;
  for (; i + 2 * lanes <= cols; i += 2 * lanes) {
    const auto v0 = hn::LoadU(d, x + i), v1 = hn::LoadU(d, x + i + lanes);
    sum0 = hn::MulAdd(v0, v0, sum0);
    sum1 = hn::MulAdd(v1, v1, sum1);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  for (; i < cols; ++i) sum += x[i] * x[i];
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(cols) + epsilon);
  const auto vscale = hn::Set(d, scale);
  for (i = 0; i + lanes <= cols; i += lanes) {
    const auto v = hn::Mul(hn::LoadU(d, x + i), vscale);
    hn::StoreU(hn::Mul(v, hn::LoadU(d, weight + i)), d, out + i);
  }
  for (; i < cols; ++i) out[i] = x[i] * scale * weight[i];
}

void AddBiasRow(const float* bias, size_t cols, float* x) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= cols; i += lanes) {
    hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, bias + i)), d, x + i);
  }
  for (; i < cols; ++i) x[i] += bias[i];
}

void SiluMulRow(const float* gate, const float* up, size_t count, float* out) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  // Past this exp() would overflow; silu is zero to float32 long before.
  const auto largest = hn::Set(d, 88.0f), one = hn::Set(d, 1.0f);
  const auto silu_mul = [&](auto g, auto u) HWY_ATTR {
    const auto e = hn::Exp(d, hn::Min(hn::Neg(g), largest));
    return hn::Mul(hn::Div(g, hn::Add(one, e)), u);
  };
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(silu_mul(hn::LoadU(d, gate + i), hn::LoadU(d, up + i)), d, out + i);
  }
  if (i == count) return;
  HWY_ALIGN float last[3][HWY_MAX_BYTES / sizeof(float)] = {};
  std::copy(gate + i, gate + count, last[0]);
  std::copy(up + i, up + count, last[1]);
  hn::Store(silu_mul(hn::Load(d, last[0]), hn::Load(d, last[1])), d, last[2]);
  std::copy(last[2], last[2] + (count - i), out + i);
}

// cos_sin alternates cosines and sines, one of each per pair.
void RopeHalves(float* x, const float* cos_sin, size_t head_dim) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d), half = head_dim / 2;
  size_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    hn::Vec<decltype(d)> cosine, sine;
    hn::LoadInterleaved2(d, cos_sin + 2 * i, cosine, sine);
    const auto a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + half + i);
    hn::StoreU(hn::Sub(hn::Mul(a, cosine), hn::Mul(b, sine)), d, x + i);
    hn::StoreU(hn::Add(hn::Mul(a, sine), hn::Mul(b, cosine)), d, x + half + i);
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[half + i], cosine = cos_sin[2 * i], sine = cos_sin[2 * i + 1];
    x[i] = a * cosine - b * sine;
    x[half + i] = a * sine + b * cosine;
  }
}

void RopeAdjacent(float* x, const float* cos_sin, size_t head_dim) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d), half = head_dim / 2;
  size_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    hn::Vec<decltype(d)> cosine, sine, a, b;
    hn::LoadInterleaved2(d, cos_sin + 2 * i, cosine, sine);
    hn::LoadInterleaved2(d, x + 2 * i, a, b);
    hn::StoreInterleaved2(hn::Sub(hn::Mul(a, cosine), hn::Mul(b, sine)),
                          hn::Add(hn::Mul(a, sine), hn::Mul(b, cosine)), d, x + 2 * i);
  }
  for (; i < half; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1], cosine = cos_sin[2 * i], sine = cos_sin[2 * i + 1];
    x[2 * i] = a * cosine - b * sine;
    x[2 * i + 1] = a * sine + b * cosine;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {
namespace {

HWY_EXPORT(RmsNormRow);
HWY_EXPORT(AddBiasRow);
HWY_EXPORT(SiluMulRow);
HWY_EXPORT(RopeHalves);
HWY_EXPORT(RopeAdjacent);

// Below this many elements waking the other threads costs more than the work: about 10 us of it.
constexpr size_t kElementsPerTask = 32768;

// Calls body(row) for all rows, some rows to a task.
template <class Body>
void ForEachRow(Backend& backend, size_t rows, size_t elements_per_row, const Body& body) {
  const size_t rows_per_task =
      std::max<size_t>(kElementsPerTask / std::max<size_t>(elements_per_row, 1), 1);
  const size_t tasks = (rows + rows_per_task - 1) / rows_per_task;
  backend.threads().ParallelFor(tasks, [&](size_t task) {
    const size_t end = std::min(rows, (task + 1) * rows_per_task);
    for (size_t row = task * rows_per_task; row < end; ++row) body(row);
  });
}

absl::Status ShapeError(const char* op, const char* wanted, const TensorView& given) {
  std::string dims;
  for (size_t i = 0; i < given.rank; ++i) absl::StrAppend(&dims, i ? ", " : "", given.dims[i]);
  return absl::InvalidArgumentError(absl::StrCat(op, ": [", dims, "], wanted ", wanted));
}

}  // namespace

absl::Status Embed(Backend& backend, const WeightView& table, std::span<const int32_t> ids,
                   TensorView out) {
  if (out.rank != 2 || out.dims[0] != ids.size() || out.dims[1] != table.cols) {
    return ShapeError("embed: out", "[number of ids, table's columns]", out);
  }
  for (const int32_t id : ids) {
    if (id < 0 || static_cast<size_t>(id) >= table.rows) {
      return absl::InvalidArgumentError(
          absl::StrCat("embed: id ", id, ", wanted 0 to ", table.rows - 1));
    }
  }
  ForEachRow(backend, ids.size(), table.cols, [&](size_t row) {
    Dequantize(table, static_cast<size_t>(ids[row]), out.Slice(0, row, 1));
  });
  return absl::OkStatus();
}

absl::Status RmsNorm(Backend& backend, TensorView x, std::span<const float> weight, float epsilon,
                     TensorView out) {
  if ((x.rank != 2 && x.rank != 3) || x.dims[x.rank - 1] != weight.size()) {
    return ShapeError("rms norm: x", "[M, C] or [M, heads, C]", x);
  }
  if (out.rank != x.rank || out.dims != x.dims) {
    return ShapeError("rms norm: out", "x's shape", out);
  }
  const auto row_function = HWY_DYNAMIC_DISPATCH(RmsNormRow);
  const size_t num_heads = x.rank == 3 ? x.dims[1] : 1;
  ForEachRow(backend, x.dims[0], num_heads * weight.size(), [&](size_t row) {
    for (size_t head = 0; head < num_heads; ++head) {
      const float* const from = x.f32(row) + head * (x.rank == 3 ? x.strides[1] : 0);
      float* const to = out.f32(row) + head * (x.rank == 3 ? out.strides[1] : 0);
      row_function(from, weight.data(), weight.size(), epsilon, to);
    }
  });
  return absl::OkStatus();
}

absl::Status AddBias(Backend& backend, std::span<const float> bias, TensorView x) {
  if (x.rank != 2 || x.dims[1] != bias.size()) return ShapeError("bias: x", "[M, C]", x);
  const auto row_function = HWY_DYNAMIC_DISPATCH(AddBiasRow);
  ForEachRow(backend, x.dims[0], bias.size(),
             [&](size_t row) { row_function(bias.data(), bias.size(), x.f32(row)); });
  return absl::OkStatus();
}

absl::Status SiluMul(Backend& backend, TensorView gate_up, TensorView out) {
  if (out.rank != 2 || gate_up.rank != 2 || gate_up.dims[0] != out.dims[0] ||
      gate_up.dims[1] != 2 * out.dims[1]) {
    return ShapeError("silu: gate_up", "[M, 2F] for out [M, F]", gate_up);
  }
  const auto row_function = HWY_DYNAMIC_DISPATCH(SiluMulRow);
  const size_t count = out.dims[1];
  ForEachRow(backend, out.dims[0], 2 * count, [&](size_t row) {
    row_function(gate_up.f32(row), gate_up.f32(row) + count, count, out.f32(row));
  });
  return absl::OkStatus();
}

absl::Status Rope(Backend& backend, TensorView x, TensorView cos_sin, RopePairs pairs) {
  if (x.rank != 3 || x.dims[2] % 2 != 0) return ShapeError("rope: x", "[M, heads, even D]", x);
  if (cos_sin.rank != 2 || cos_sin.dims[0] != x.dims[0] || cos_sin.dims[1] != x.dims[2]) {
    return ShapeError("rope: cos_sin", "[M, D]", cos_sin);
  }
  const auto head_function = pairs == RopePairs::kHalves ? HWY_DYNAMIC_DISPATCH(RopeHalves)
                                                         : HWY_DYNAMIC_DISPATCH(RopeAdjacent);
  ForEachRow(backend, x.dims[0], x.dims[1] * x.dims[2], [&](size_t row) {
    for (size_t head = 0; head < x.dims[1]; ++head) {
      head_function(x.f32(row, head), cos_sin.f32(row), x.dims[2]);
    }
  });
  return absl::OkStatus();
}

}  // namespace kvship
#endif  // HWY_ONCE
