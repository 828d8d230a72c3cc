// A prompt whose beginning was kept gets what it would get without, to the bit.
#include <gtest/gtest.h>

#include <cstring>

#include "base/random.h"
#include "engine/prefill.h"
#include "kv/prefix_digests.h"
#include "tests/engine/mixture_gguf.h"
#include "tests/engine/read_all.h"

namespace kvship {
namespace {

constexpr size_t kBlock = kPrefixBlockTokens;

// `num_tokens` tokens, of which the first `num_common` are the same in all.
std::vector<int32_t> Tokens(size_t num_tokens, size_t num_common, uint64_t seed) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < num_tokens; ++i) {
    tokens.push_back(static_cast<int32_t>(RandomBits(i < num_common ? 0 : seed, i) % 320));
  }
  return tokens;
}

LayerNeeds LastQueries(size_t num_tokens, size_t window) {
  return {.window_begin = num_tokens - window, .window_end = num_tokens};
}

class PrefixReuse : public ::testing::TestWithParam<const char*> {
 protected:
  // Of the model's K and V.
  size_t BlocksBytes(size_t num_blocks) const {
    const ModelConfig& config = model_->config;
    return num_blocks * config.num_layers * 2 * config.num_kv_heads * kBlock * config.head_dim * 4;
  }
  PrefillEngine EngineWith(size_t num_blocks) {
    return PrefillEngine(*model_, backend_,
                         {.block_tokens = 64, .prefix_cache_bytes = BlocksBytes(num_blocks)});
  }
  // Reads the prompts side by side, having `num_reused` tokens each.
  void ExpectReused(PrefillEngine& engine, const std::vector<PrefillPrompt>& prompts,
                    const std::vector<size_t>& num_reused) {
    {
      const PrefillRun run(engine, prompts);
      for (size_t i = 0; i < prompts.size(); ++i) {
        EXPECT_EQ(run.reused_tokens(i), num_reused[i]) << "prompt " << i;
      }
    }
    const std::vector<std::vector<float>> read = ReadAll(engine, prompts);
    const std::vector<std::vector<float>> wanted = ReadAll(plain_engine_, prompts);
    for (size_t i = 0; i < prompts.size(); ++i) {
      ASSERT_EQ(read[i].size(), wanted[i].size());
      EXPECT_EQ(std::memcmp(read[i].data(), wanted[i].data(), wanted[i].size() * sizeof(float)), 0)
          << "prompt " << i;
    }
  }

  const std::unique_ptr<const Transformer> model_ = TinyModelOf(GetParam());
  Backend backend_{2};
  PrefillEngine plain_engine_{*model_, backend_, {.block_tokens = 64}};
};

TEST_P(PrefixReuse, AQuestionAboutTheSameText) {
  PrefillEngine engine = EngineWith(8);
  ExpectReused(engine, {{Tokens(600, 550, 1), LastQueries(600, 32)}}, {0});
  ExpectReused(engine, {{Tokens(620, 550, 2), LastQueries(620, 32)}}, {2 * kBlock});
  // The first prompt again, and one that goes on from it.
  ExpectReused(engine, {{Tokens(600, 550, 1), LastQueries(600, 32)}}, {2 * kBlock});
  ExpectReused(engine, {{Tokens(900, 550, 1), LastQueries(900, 32)}}, {2 * kBlock});
  ExpectReused(engine, {{Tokens(1000, 550, 1), LastQueries(1000, 32)}}, {3 * kBlock});
}

TEST_P(PrefixReuse, NotBeyondTheFirstQueryThatIsObserved) {
  PrefillEngine engine = EngineWith(8);
  const std::vector<int32_t> tokens = Tokens(600, 600, 1);
  ExpectReused(engine, {{tokens, LastQueries(600, 32)}}, {0});
  ExpectReused(engine, {{tokens, LastQueries(600, 100)}}, {kBlock});
  ExpectReused(engine, {{tokens, LastQueries(600, 400)}}, {0});
  ExpectReused(engine, {{tokens, {.column_sums = true}}}, {0});
  ExpectReused(engine, {{tokens, {.future_tokens = 16, .moments_begin = 300}}}, {kBlock});
  ExpectReused(engine, {{tokens, {}}}, {2 * kBlock});
}

TEST_P(PrefixReuse, TheLastTokenIsReadAlways) {
  PrefillEngine engine = EngineWith(8);
  const std::vector<int32_t> tokens = Tokens(2 * kBlock, 2 * kBlock, 1);
  ExpectReused(engine, {{tokens, {}}}, {0});
  ExpectReused(engine, {{tokens, {}}}, {kBlock});
}

TEST_P(PrefixReuse, PromptsSideBySide) {
  PrefillEngine engine = EngineWith(8);
  ExpectReused(engine, {{Tokens(300, 280, 1), LastQueries(300, 8)}}, {0});
  ExpectReused(engine,
               {{Tokens(40, 0, 2), LastQueries(40, 8)},
                {Tokens(310, 280, 3), LastQueries(310, 16)},
                {Tokens(290, 0, 4), {.column_sums = true}},
                {Tokens(270, 270, 5), LastQueries(270, 3)}},
               {0, kBlock, 0, kBlock});
}

TEST_P(PrefixReuse, NoMoreThanThereIsMemoryFor) {
  PrefillEngine engine = EngineWith(1);
  const PrefillPrompt prompt = {Tokens(700, 700, 1), LastQueries(700, 32)};
  ExpectReused(engine, {prompt}, {0});
  ExpectReused(engine, {prompt}, {kBlock});
  EXPECT_EQ(engine.prefix_cache().num_bytes(), BlocksBytes(1));
}

TEST_P(PrefixReuse, RunsThatTakeTurnsAndOneThatIsCancelled) {
  PrefillEngine engine = EngineWith(3);
  const std::vector<PrefillPrompt> first = {{Tokens(300, 280, 1), LastQueries(300, 8)}};
  const std::vector<PrefillPrompt> second = {{Tokens(560, 280, 2), LastQueries(560, 8)}};
  const auto wanted = ReadAll(plain_engine_, first);
  PrefillRun paused(engine, first);
  ASSERT_TRUE(paused.Step().ok());
  {
    PrefillRun cancelled(engine, second);
    ASSERT_TRUE(cancelled.Step().ok());
  }
  ExpectReused(engine, second, {0});
  while (!paused.done()) ASSERT_TRUE(paused.Step().ok());
  ExpectReused(engine, first, {kBlock});
  ExpectReused(engine, second, {2 * kBlock});
}

// Whatever is kept and forgotten meanwhile.
TEST_P(PrefixReuse, ManyPromptsInLittleMemory) {
  PrefillEngine engine = EngineWith(4);
  size_t reused_tokens = 0;
  for (uint64_t i = 0; i < 12; ++i) {
    const size_t num_tokens = 200 + RandomBits(1, i) % 700;
    const size_t num_common = RandomBits(2, i) % num_tokens;
    const std::vector<PrefillPrompt> prompts = {
        {Tokens(num_tokens, num_common, RandomBits(3, i) % 3), LastQueries(num_tokens, 20)}};
    reused_tokens += PrefillRun(engine, prompts).reused_tokens(0);
    const auto read = ReadAll(engine, prompts)[0], wanted = ReadAll(plain_engine_, prompts)[0];
    ASSERT_EQ(std::memcmp(read.data(), wanted.data(), wanted.size() * sizeof(float)), 0) << i;
  }
  EXPECT_GT(reused_tokens, 0u);
}

INSTANTIATE_TEST_SUITE_P(Models, PrefixReuse, ::testing::Values("llama", "mixtral", "qwen3moe_q8"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace kvship
