// A sequence's logits do not depend on who else is in its batch, to the bit.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "base/random.h"
#include "tests/engine/mixture_gguf.h"
#include "tools/local_run.h"

namespace kvship {
namespace {

constexpr size_t kSequences = 40;  // so many that some experts multiply no longer row by row
constexpr size_t kSteps = 4;

class DecodeBatch : public ::testing::TestWithParam<const char*> {
 protected:
  LocalRun::Prefilled Sequence(size_t index) {
    std::vector<int32_t> tokens;
    for (size_t i = 0; i < 20 + 7 * index; ++i) {
      tokens.push_back(static_cast<int32_t>(RandomBits(index, i) % 320));
    }
    return *run_.Prefill(tokens, *ParseCompression("budget_tokens=16,window=8,kernel=7"), kSteps);
  }
  static int32_t Token(size_t index, size_t step) {
    return static_cast<int32_t>(RandomBits(100 + index, step) % 320);
  }

  const std::unique_ptr<const Transformer> model_ = TinyModelOf(GetParam());
  LocalRun run_{*model_, {}};
  Backend backend_{2};
  DecodeEngine engine_{*model_, backend_, Arithmetic::kFast};
};

TEST_P(DecodeBatch, LogitsAreThoseOfTheSequenceAlone) {
  std::vector<LocalRun::Prefilled> together;
  for (size_t i = 0; i < kSequences; ++i) together.push_back(Sequence(i));
  std::vector<std::vector<float>> wanted;
  for (size_t i = 0; i < kSequences; ++i) {
    const LocalRun::Prefilled alone = Sequence(i);
    for (size_t step = 0; step < kSteps; ++step) {
      const Decoder::Item item{.token = Token(i, step), .cache = alone.cache.get()};
      ASSERT_TRUE(engine_.Step({&item, 1}).ok());
      wanted.emplace_back(engine_.logits(0).begin(), engine_.logits(0).end());
    }
  }
  for (size_t step = 0; step < kSteps; ++step) {
    std::vector<Decoder::Item> items;
    for (size_t i = 0; i < kSequences; ++i) {
      items.push_back({.token = Token(i, step), .cache = together[i].cache.get()});
    }
    ASSERT_TRUE(engine_.Step(items).ok());
    for (size_t i = 0; i < kSequences; ++i) {
      const std::vector<float> logits(engine_.logits(i).begin(), engine_.logits(i).end());
      EXPECT_EQ(logits, wanted[i * kSteps + step]) << "sequence " << i << ", step " << step;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, DecodeBatch,
                         ::testing::Values("llama", "mixtral", "mixtral_q8", "qwen3moe_q8"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace kvship
