// All that a run shows of its prompts, to be compared to the bit.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "engine/prefill.h"

namespace kvship {

inline std::vector<float> Copied(const TensorView& view) {
  std::vector<float> out;
  if (view.rank == 0) return out;
  const size_t rows = view.rank == 3 ? view.dims[1] : 1;
  const size_t cols = view.dims[view.rank - 1];
  for (size_t i = 0; i < view.dims[0]; ++i) {
    for (size_t j = 0; j < rows; ++j) {
      const float* row = view.rank == 3 ? view.f32(i, j) : view.f32(i);
      out.insert(out.end(), row, row + cols);
    }
  }
  return out;
}

// All that a layer shows, one after the other.
inline std::vector<float> Shown(const LayerView& view) {
  std::vector<float> out;
  for (const TensorView& part : {view.keys, view.values, view.window_queries, view.window_lse,
                                 view.column_sums, view.query_mean, view.query_covariance}) {
    const std::vector<float> copied = Copied(part);
    out.insert(out.end(), copied.begin(), copied.end());
  }
  return out;
}

// Reads prompts side by side. Per prompt: what each layer shows, then the logits after the last
// token.
inline std::vector<std::vector<float>> ReadAll(PrefillEngine& engine,
                                               const std::vector<PrefillPrompt>& prompts) {
  PrefillRun run(engine, prompts);
  std::vector<std::vector<float>> out(prompts.size());
  while (!run.done()) {
    if (*run.Step() != PrefillRun::Event::kLayerDone) continue;
    for (size_t i = 0; i < prompts.size(); ++i) {
      const std::vector<float> shown = Shown(run.finished_layer(i));
      out[i].insert(out[i].end(), shown.begin(), shown.end());
    }
  }
  std::vector<float> logits(engine.model().config.vocab_tokens);
  for (size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_TRUE(
        run.Logits(i, prompts[i].tokens.size() - 1, TensorView(logits.data(), {1, logits.size()}))
            .ok());
    out[i].insert(out[i].end(), logits.begin(), logits.end());
  }
  return out;
}

}  // namespace kvship
