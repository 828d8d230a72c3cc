// Several prompts in one run get what each gets alone, to the bit.
#include <gtest/gtest.h>

#include <cstring>

#include "base/random.h"
#include "engine/prefill.h"
#include "tests/engine/mixture_gguf.h"
#include "tests/engine/read_all.h"

namespace kvship {
namespace {

PrefillPrompt RandomPrompt(size_t num_tokens, LayerNeeds needs) {
  PrefillPrompt prompt;
  for (size_t i = 0; i < num_tokens; ++i) {
    prompt.tokens.push_back(static_cast<int32_t>(RandomBits(num_tokens, i) % 320));
  }
  prompt.needs = needs;
  return prompt;
}

class PackedPrefill : public ::testing::TestWithParam<const char*> {
 protected:
  void ExpectTheSameAsAlone(const std::vector<PrefillPrompt>& prompts) {
    const std::vector<std::vector<float>> packed = ReadAll(engine_, prompts);
    for (size_t i = 0; i < prompts.size(); ++i) {
      const std::vector<float> alone = ReadAll(engine_, {prompts[i]})[0];
      ASSERT_EQ(packed[i].size(), alone.size());
      EXPECT_EQ(std::memcmp(packed[i].data(), alone.data(), alone.size() * sizeof(float)), 0)
          << "prompt " << i;
    }
  }

  const std::unique_ptr<const Transformer> model_ = TinyModelOf(GetParam());
  Backend backend_{2};
  PrefillEngine engine_{*model_, backend_, {.block_tokens = 64}};
};

TEST_P(PackedPrefill, ShortPromptsInOneBlock) {
  ExpectTheSameAsAlone({RandomPrompt(1, {}), RandomPrompt(30, {}), RandomPrompt(17, {})});
}

TEST_P(PackedPrefill, WindowsColumnSumsAndMomentsOfEach) {
  ExpectTheSameAsAlone({RandomPrompt(20, {.window_begin = 12, .window_end = 20}),
                        RandomPrompt(25, {.window_begin = 3, .window_end = 9, .column_sums = true}),
                        RandomPrompt(19, {.future_tokens = 16, .moments_begin = 2})});
}

TEST_P(PackedPrefill, PromptsThatBlocksCut) {
  ExpectTheSameAsAlone({RandomPrompt(50, {.window_begin = 40, .window_end = 50}),
                        RandomPrompt(130, {.window_begin = 100, .window_end = 130})});
}

INSTANTIATE_TEST_SUITE_P(Models, PackedPrefill,
                         ::testing::Values("llama", "mixtral", "mixtral_q8", "qwen3moe_q8"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace kvship
