// What the attention tests share: seeded random tensors, and attention of one query in double
// precision, written down as the formula stands.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "base/random.h"
#include "base/tensor_view.h"

namespace kvship {

// A tensor of numbers that are about normal (the sum of four uniform ones), times `scale`.
struct RandomTensor {
  RandomTensor(std::initializer_list<size_t> sizes, uint64_t seed, float scale = 1.0f) {
    size_t num_elements = 1;
    for (size_t n : sizes) num_elements *= n;
    data.resize(num_elements);
    for (size_t i = 0; i < num_elements; ++i) {
      double sum = -2.0;
      for (size_t k = 0; k < 4; ++k) sum += UniformUnit(seed, 4 * i + k);
      data[i] = static_cast<float>(sum * std::sqrt(3.0)) * scale;
    }
    view = TensorView(data.data(), sizes);
  }
  std::vector<float> data;
  TensorView view;
};

struct ReferenceRow {
  std::vector<double> probabilities;  // of keys [0, num_keys)
  std::vector<double> out;            // [D]
  double lse = 0.0;
};

// Attention of the query q [D] to rows [0, num_keys) of keys and values [T, D].
inline ReferenceRow AttendByFormula(const float* q, const TensorView& keys,
                                    const TensorView& values, size_t num_keys) {
  const size_t head_dim = keys.dims[1];
  ReferenceRow row;
  row.out.assign(head_dim, 0.0);
  double max = -HUGE_VAL;
  for (size_t j = 0; j < num_keys; ++j) {
    double product = 0.0;
    for (size_t i = 0; i < head_dim; ++i) product += double{q[i]} * keys.f32(j)[i];
    row.probabilities.push_back(product / std::sqrt(static_cast<double>(head_dim)));
    max = std::max(max, row.probabilities.back());
  }
  double sum = 0.0;
  for (double score : row.probabilities) sum += std::exp(score - max);
  row.lse = max + std::log(sum);
  for (size_t j = 0; j < num_keys; ++j) {
    double& p = row.probabilities[j];
    p = std::exp(p - row.lse);
    for (size_t i = 0; i < head_dim; ++i) row.out[i] += p * values.f32(j)[i];
  }
  return row;
}

// Head h of a tensor [H, T, D] as [T, D].
inline TensorView Head(const TensorView& tensor, size_t h) {
  TensorView out = tensor;
  out.data = tensor.f32(h);
  out.rank = 2;
  out.dims = {tensor.dims[1], tensor.dims[2]};
  out.strides = {tensor.strides[1], tensor.strides[2]};
  return out;
}

}  // namespace kvship
