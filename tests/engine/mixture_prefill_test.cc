// How the steps of a prompt go through a mixture of experts.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/random.h"
#include "engine/prefill.h"
#include "tests/engine/mixture_gguf.h"
#include "tests/engine/read_all.h"

namespace kvship {
namespace {

PrefillPrompt Prompt(size_t num_tokens) {
  PrefillPrompt prompt;
  for (size_t i = 0; i < num_tokens; ++i) {
    prompt.tokens.push_back(static_cast<int32_t>(RandomBits(num_tokens, i) % 320));
  }
  return prompt;
}

class MixturePrefill : public ::testing::Test {
 protected:
  std::vector<float> LogitsOf(PrefillRun& run, size_t num_tokens) const {
    std::vector<float> logits(model_->config.vocab_tokens);
    EXPECT_TRUE(run.Logits(0, num_tokens - 1, TensorView(logits.data(), {1, logits.size()})).ok());
    return logits;
  }

  const std::unique_ptr<const Transformer> model_ = TinyModelOf("qwen3moe_q8");
  Backend backend_{2};
  PrefillEngine engine_{*model_, backend_, {.block_tokens = 16}};
};

TEST_F(MixturePrefill, ALayersExpertsFollowItsBlocksInSteps) {
  PrefillRun run(engine_, {Prompt(100)});
  std::vector<size_t> steps = {0};
  double fraction = 0;
  while (!run.done()) {
    ++steps.back();
    const bool is_layer = *run.Step() == PrefillRun::Event::kLayerDone;
    EXPECT_GT(run.fraction(), fraction);
    fraction = run.fraction();
    if (is_layer) steps.push_back(0);
  }
  EXPECT_EQ(fraction, 1);
  ASSERT_EQ(steps.size(), 3u);
  // 7 blocks of 16. 100 rows choose 2 of 8 experts each: 200 in pieces of at most 16, one piece of
  // each expert not full.
  EXPECT_GE(steps[0], 7u + 200 / 16);
  EXPECT_LE(steps[0], 7u + 200 / 16 + 8);
  // Of the last layer one row is read.
  EXPECT_EQ(steps[1], 7u + 2);
}

TEST_F(MixturePrefill, BlocksDoNotChangeTheResult) {
  const std::vector<float> wanted = ReadAll(engine_, {Prompt(90)})[0];
  for (const size_t block_tokens : {1, 7, 256}) {
    PrefillEngine other(*model_, backend_, {.block_tokens = block_tokens});
    EXPECT_EQ(ReadAll(other, {Prompt(90)})[0], wanted) << block_tokens;
  }
}

// Whichever expert's weights the other run has left unpacked.
TEST_F(MixturePrefill, RunsMayTakeTurnsAtEachStep) {
  PrefillRun alone(engine_, {Prompt(60)});
  while (!alone.done()) ASSERT_TRUE(alone.Step().ok());
  const std::vector<float> wanted = LogitsOf(alone, 60);
  PrefillRun run(engine_, {Prompt(60)}), other(engine_, {Prompt(80)});
  while (!run.done()) {
    ASSERT_TRUE(run.Step().ok());
    if (!other.done()) {
      ASSERT_TRUE(other.Step().ok());
    }
  }
  EXPECT_EQ(LogitsOf(run, 60), wanted);
}

TEST_F(MixturePrefill, AllLogitsIncludeTheLast) {
  const std::vector<float> read = ReadAll(engine_, {Prompt(40)})[0];
  PrefillRun run(engine_, {Prompt(40)}, /*all_logits=*/true);
  while (!run.done()) ASSERT_TRUE(run.Step().ok());
  const std::vector<float> last = LogitsOf(run, 40);
  EXPECT_TRUE(
      std::equal(last.begin(), last.end(), read.end() - static_cast<ptrdiff_t>(last.size())));
}

TEST_F(MixturePrefill, BytesCountWhatIsKeptForTheExperts) {
  ModelConfig dense = model_->config;
  dense.num_experts = 0;
  EXPECT_EQ(PrefillRun::BytesFor(model_->config, 100, {}) - PrefillRun::BytesFor(dense, 100, {}),
            100u * (64 * sizeof(float) + 2 * 2 * sizeof(RoutedRow)));
}

}  // namespace
}  // namespace kvship
