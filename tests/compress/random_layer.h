// A finished layer of random queries, keys and values.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "kernels/scores.h"
#include "kv/layer_view.h"
#include "kv/shape.h"
#include "tests/random_floats.h"

namespace kvship {

inline constexpr size_t kTokens = 150;
inline constexpr KvShape kShape = {
    .num_layers = 1, .num_kv_heads = 2, .num_query_heads = 4, .head_dim = 32};

struct RandomLayer {
  static constexpr size_t kHeads = kShape.num_kv_heads;
  static constexpr size_t kQueryHeads = kShape.num_query_heads;
  static constexpr size_t kDim = kShape.head_dim;

  size_t num_tokens = kTokens;
  std::vector<float> queries = RandomFloats(1, kQueryHeads* num_tokens* kDim);
  std::vector<float> keys = RandomFloats(2, kHeads* num_tokens* kDim);
  std::vector<float> values = RandomFloats(3, kHeads* num_tokens* kDim);
  std::vector<float> query_mean = RandomFloats(4, kQueryHeads* kDim);
  std::vector<float> query_covariance = RandomFloats(5, kQueryHeads* kDim* kDim);
  std::vector<float> lse = std::vector<float>(kQueryHeads * num_tokens);
  std::vector<float> column_sums = std::vector<float>(kQueryHeads * num_tokens);

  LayerView View(const LayerNeeds& needs) {
    Backend backend(1);
    LayerView view;
    view.keys = TensorView(keys.data(), {kHeads, num_tokens, kDim});
    view.values = TensorView(values.data(), {kHeads, num_tokens, kDim});
    const TensorView all_queries(queries.data(), {kQueryHeads, num_tokens, kDim});
    const TensorView all_lse(lse.data(), {kQueryHeads, num_tokens});
    EXPECT_TRUE(WindowLogSumExp(backend, all_queries, view.keys, num_tokens, 0, all_lse).ok());
    view.column_sums = TensorView(column_sums.data(), {kQueryHeads, num_tokens});
    EXPECT_TRUE(
        WindowVotes(
            backend,
            {.q = all_queries, .keys = view.keys, .lse = all_lse, .votes = view.column_sums})
            .ok());
    const size_t window = needs.num_window_queries();
    view.window_queries = all_queries.Slice(1, needs.window_begin, window);
    view.window_lse = all_lse.Slice(1, needs.window_begin, window);
    view.window_begin = needs.window_begin;
    view.query_mean = TensorView(query_mean.data(), {kQueryHeads, kDim});
    view.query_covariance = TensorView(query_covariance.data(), {kQueryHeads, kDim, kDim});
    return view;
  }
};

}  // namespace kvship
