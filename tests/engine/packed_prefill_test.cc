// Several prompts in one run get what each gets alone, to the bit.
#include <gtest/gtest.h>

#include <cstring>

#include "base/random.h"
#include "engine/prefill.h"

namespace kvship {
namespace {

std::vector<float> Copied(const TensorView& view) {
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
std::vector<float> Shown(const LayerView& view) {
  std::vector<float> out;
  for (const TensorView& part : {view.keys, view.values, view.window_queries, view.window_lse,
                                 view.column_sums, view.query_mean, view.query_covariance}) {
    const std::vector<float> copied = Copied(part);
    out.insert(out.end(), copied.begin(), copied.end());
  }
  return out;
}

PrefillPrompt RandomPrompt(size_t num_tokens, LayerNeeds needs) {
  PrefillPrompt prompt;
  for (size_t i = 0; i < num_tokens; ++i) {
    prompt.tokens.push_back(static_cast<int32_t>(RandomBits(num_tokens, i) % 320));
  }
  prompt.needs = needs;
  return prompt;
}

class PackedPrefill : public ::testing::Test {
 protected:
  // Per prompt: what each layer shows, then the logits after the last token.
  std::vector<std::vector<float>> Read(const std::vector<PrefillPrompt>& prompts) {
    PrefillRun run(engine_, prompts);
    std::vector<std::vector<float>> out(prompts.size());
    while (!run.done()) {
      if (*run.Step() != PrefillRun::Event::kLayerDone) continue;
      for (size_t i = 0; i < prompts.size(); ++i) {
        const std::vector<float> shown = Shown(run.finished_layer(i));
        out[i].insert(out[i].end(), shown.begin(), shown.end());
      }
    }
    std::vector<float> logits(model_->config.vocab_tokens);
    for (size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_TRUE(
          run.Logits(i, prompts[i].tokens.size() - 1, TensorView(logits.data(), {1, logits.size()}))
              .ok());
      out[i].insert(out[i].end(), logits.begin(), logits.end());
    }
    return out;
  }

  void ExpectTheSameAsAlone(const std::vector<PrefillPrompt>& prompts) {
    const std::vector<std::vector<float>> packed = Read(prompts);
    for (size_t i = 0; i < prompts.size(); ++i) {
      const std::vector<float> alone = Read({prompts[i]})[0];
      ASSERT_EQ(packed[i].size(), alone.size());
      EXPECT_EQ(std::memcmp(packed[i].data(), alone.data(), alone.size() * sizeof(float)), 0)
          << "prompt " << i;
    }
  }

  const std::unique_ptr<const Transformer> model_ =
      *LoadTransformer(KVSHIP_GOLDENS "/models/llama");
  Backend backend_{2};
  PrefillEngine engine_{*model_, backend_, {.block_tokens = 64}};
};

TEST_F(PackedPrefill, ShortPromptsInOneBlock) {
  ExpectTheSameAsAlone({RandomPrompt(1, {}), RandomPrompt(30, {}), RandomPrompt(17, {})});
}

TEST_F(PackedPrefill, WindowsColumnSumsAndMomentsOfEach) {
  ExpectTheSameAsAlone({RandomPrompt(20, {.window_begin = 12, .window_end = 20}),
                        RandomPrompt(25, {.window_begin = 3, .window_end = 9, .column_sums = true}),
                        RandomPrompt(19, {.future_tokens = 16, .moments_begin = 2})});
}

TEST_F(PackedPrefill, PromptsThatBlocksCut) {
  ExpectTheSameAsAlone({RandomPrompt(50, {.window_begin = 40, .window_end = 50}),
                        RandomPrompt(130, {.window_begin = 100, .window_end = 130})});
}

}  // namespace
}  // namespace kvship
