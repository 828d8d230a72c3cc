#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/scores.h"

namespace kvship {
namespace {

// out[i] over the neighbours of i that exist; both poolings add or compare them from left to right.
void PoolRow(const float* in, size_t num_scores, Pooling pooling, size_t kernel, float* out) {
  const size_t half = kernel / 2;
  const float share = 1.0f / static_cast<float>(kernel);
  for (size_t i = 0; i < num_scores; ++i) {
    const size_t begin = i < half ? 0 : i - half;
    const size_t end = std::min(num_scores, i + half + 1);
    if (pooling == Pooling::kMax) {
      float max = -HUGE_VALF;
      for (size_t j = begin; j < end; ++j) max = std::max(max, in[j]);
      out[i] = max;
    } else {
      float sum = 0.0f;
      for (size_t j = begin; j < end; ++j) sum += in[j];
      out[i] = sum * share;
    }
  }
}

void ReduceRows(const TensorView& in, size_t first_row, size_t group, GroupReduce reduce,
                float* out) {
  const size_t num_scores = in.dims[1];
  std::copy_n(in.f32(first_row), num_scores, out);
  for (size_t g = 1; g < group; ++g) {
    const float* const row = in.f32(first_row + g);
    if (reduce == GroupReduce::kMax) {
      for (size_t i = 0; i < num_scores; ++i) out[i] = std::max(out[i], row[i]);
    } else {
      for (size_t i = 0; i < num_scores; ++i) out[i] += row[i];
    }
  }
  if (reduce == GroupReduce::kMean) {
    const float share = 1.0f / static_cast<float>(group);
    for (size_t i = 0; i < num_scores; ++i) out[i] *= share;
  }
}

// In eight sums, which the compiler can hold in one register.
float Norm(const float* x, size_t num_elements) {
  constexpr size_t kSums = 8;
  float sums[kSums] = {};
  size_t i = 0;
  for (; i + kSums <= num_elements; i += kSums) {
    for (size_t j = 0; j < kSums; ++j) sums[j] += x[i + j] * x[i + j];
  }
  for (size_t j = 0; i < num_elements; ++i, ++j) sums[j] += x[i] * x[i];
  double sum = 0;
  for (float s : sums) sum += s;
  return static_cast<float>(std::sqrt(sum));
}

}  // namespace

absl::Status PoolScores(Backend& backend, TensorView in, Pooling pooling, size_t kernel,
                        TensorView out) {
  if (kernel % 2 == 0) {
    return absl::InvalidArgumentError(absl::StrCat("kernel ", kernel, ", wanted an odd number"));
  }
  if (in.rank != 2 || out.rank != 2 || in.dims != out.dims) {
    return absl::InvalidArgumentError(absl::StrCat("pooled scores [", out.dims[0], ", ",
                                                   out.dims[1], "], wanted [", in.dims[0], ", ",
                                                   in.dims[1], "]"));
  }
  backend.threads().ParallelFor(in.dims[0], [&](size_t r) {
    if (pooling == Pooling::kNone) {
      std::copy_n(in.f32(r), in.dims[1], out.f32(r));
    } else {
      PoolRow(in.f32(r), in.dims[1], pooling, kernel, out.f32(r));
    }
  });
  return absl::OkStatus();
}

absl::Status ReduceGroups(Backend& backend, TensorView in, GroupReduce reduce, TensorView out) {
  if (in.rank != 2 || out.rank != 2 || out.dims[0] == 0 || in.dims[0] % out.dims[0] != 0 ||
      in.dims[1] != out.dims[1]) {
    return absl::InvalidArgumentError(absl::StrCat(
        "scores [", in.dims[0], ", ", in.dims[1], "] cannot be reduced to [", out.dims[0], ", ",
        out.dims[1], "]: wanted as many columns, and a divisor of the rows"));
  }
  const size_t group = in.dims[0] / out.dims[0];
  if (reduce == GroupReduce::kNone && group != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("no reduction asked, but ", in.dims[0], " rows for ", out.dims[0]));
  }
  backend.threads().ParallelFor(
      out.dims[0], [&](size_t h) { ReduceRows(in, h * group, group, reduce, out.f32(h)); });
  return absl::OkStatus();
}

absl::Status RowNorms(Backend& backend, TensorView x, TensorView out) {
  if (x.rank != 3 || out.rank != 2 || out.dims[0] != x.dims[0] || out.dims[1] != x.dims[1]) {
    return absl::InvalidArgumentError(absl::StrCat("norms [", out.dims[0], ", ", out.dims[1],
                                                   "], wanted [", x.dims[0], ", ", x.dims[1], "]"));
  }
  backend.threads().ParallelFor(x.dims[0], [&](size_t h) {
    for (size_t i = 0; i < x.dims[1]; ++i) out.f32(h)[i] = Norm(x.f32(h, i), x.dims[2]);
  });
  return absl::OkStatus();
}

}  // namespace kvship
