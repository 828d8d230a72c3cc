#include "engine/gguf_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "engine/end_tokens.h"
#include "engine/tokenizer.h"
#include "tests/engine/model_files.h"

namespace kvship {
namespace {

using Ids = std::vector<int32_t>;

using testing::ElementsAre;

// Of a model tuned to chats, whose configuration may know the base model's end token alone.
TEST(GgufTokenizer, SpecialTokensEndOutputsByTheirNames) {
  const TempFolder folder;
  GgufWriter gguf;
  gguf.Name("tokenizer.ggml.model", "gpt2")
      .Names("tokenizer.ggml.tokens", {"a", "<|im_end|>", "<|eot_id|>", "<|x|>", "<|end|>"})
      .Names("tokenizer.ggml.merges", {})
      .Integers("tokenizer.ggml.token_type", {1, 3, 3, 3, 3});
  const auto tokenizer = Tokenizer::Load(folder.Write("model.gguf", gguf.Bytes()));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->end_tokens(), ElementsAre(1, 2, 4));
  ModelConfig model;
  model.vocab_tokens = 2;
  model.end_tokens = {0};
  EXPECT_THAT(EndTokens(model, tokenizer->get()), ElementsAre(0, 1));
  EXPECT_THAT(EndTokens(model, nullptr), ElementsAre(0));
}

// As files of older converters have them: </s> normal, <|end|> added.
TEST(GgufTokenizer, TokensThatEndTurnsAreSpecialWhateverTheFileSays) {
  const TempFolder folder;
  GgufWriter gguf;
  gguf.Name("tokenizer.ggml.model", "gpt2")
      .Names("tokenizer.ggml.tokens",
             {"<", "/", "s", ">", "</", "</s", "</s>", "<|end|>", "<|x|>", "<|eot_id|>"})
      .Names("tokenizer.ggml.merges", {"< /", "</ s", "</s >"});
  for (const bool has_types : {false, true}) {
    if (has_types) gguf.Integers("tokenizer.ggml.token_type", {1, 1, 1, 1, 1, 1, 1, 4, 4, 5});
    const auto tokenizer = Tokenizer::Load(folder.Write("model.gguf", gguf.Bytes()));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_THAT((*tokenizer)->end_tokens(),
                testing::ElementsAreArray(has_types ? Ids({6, 7}) : Ids({6, 7, 9})));
    EXPECT_EQ((*tokenizer)->SpecialToken("</s>"), 6);
    EXPECT_EQ((*tokenizer)->SpecialToken("<|end|>"), 7);
    EXPECT_EQ((*tokenizer)->SpecialToken("<|x|>"), std::nullopt);
    EXPECT_EQ(*(*tokenizer)->Encode("s</s>", /*parse_special=*/true), (Ids{2, 6}));
    EXPECT_EQ(*(*tokenizer)->Encode("s</s>", /*parse_special=*/false), (Ids{2, 4, 2, 3}));
  }
}

}  // namespace
}  // namespace kvship
