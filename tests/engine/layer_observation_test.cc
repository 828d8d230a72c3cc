#include "engine/layer_observation.h"

#include <gtest/gtest.h>

namespace kvship {
namespace {

TEST(LayerObservation, BytesAreThoseOfWhatItShows) {
  ModelConfig config;
  config.num_query_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.rope_frequencies = {1, 0.1, 0.01, 0.001};
  constexpr size_t kTokens = 300;
  for (const LayerNeeds& needs :
       {LayerNeeds{}, LayerNeeds{.window_begin = 1, .window_end = kTokens},
        LayerNeeds{.window_begin = 284, .window_end = kTokens, .column_sums = true},
        LayerNeeds{.window_begin = 284, .window_end = kTokens, .future_tokens = 512}}) {
    LayerObservation observation(config, kTokens, needs);
    LayerView view;
    observation.ShowIn(&view);
    size_t num_bytes = needs.future_tokens > 0 ? QueryMoments::BytesFor(config) : 0;
    for (const TensorView& shown : {view.window_queries, view.window_lse, view.column_sums,
                                    view.query_mean, view.query_covariance}) {
      if (shown.data != nullptr) num_bytes += shown.num_elements() * sizeof(float);
    }
    EXPECT_EQ(LayerObservation::BytesFor(config, kTokens, needs), num_bytes);
  }
}

}  // namespace
}  // namespace kvship
