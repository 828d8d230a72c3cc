#include "engine/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/byte_alphabet.h"
#include "tests/engine/model_files.h"
#include "tests/engine/reference_ids.h"
#include "tests/needed.h"

namespace kvship {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

using testing::HasSubstr;

TEST(TokenizerJson, GivesTheReferenceIdsOfDigitsAndByteLevel) {
  const auto tokenizer = Tokenizer::Load(KVSHIP_GOLDENS "/tokenizers/digits");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectReferenceIds(**tokenizer, KVSHIP_GOLDENS "/tokenizers/digits/ids.json");
  EXPECT_EQ((*tokenizer)->begin_token(), -1);
}

TEST(TokenizerJson, GivesTheReferenceIdsOfALlama3Style) {
  const auto tokenizer = Tokenizer::Load(KVSHIP_GOLDENS "/tokenizers/llama3");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectReferenceIds(**tokenizer, KVSHIP_GOLDENS "/tokenizers/llama3/ids.json");
  EXPECT_EQ((*tokenizer)->begin_token(), 901);
}

TEST(TokenizerJson, GivesTheReferenceIdsWithAnUnknownToken) {
  const auto tokenizer = Tokenizer::Load(KVSHIP_GOLDENS "/tokenizers/unknown");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectReferenceIds(**tokenizer, KVSHIP_GOLDENS "/tokenizers/unknown/ids.json");
}

TEST(TokenizerJson, GivesTheReferenceIdsOfAQwenStyle) {
  const auto tokenizer = Tokenizer::Load(KVSHIP_GOLDENS "/tokenizers/qwen");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectReferenceIds(**tokenizer, KVSHIP_GOLDENS "/tokenizers/qwen/ids.json");
}

TEST(TokenizerJson, RefusesPartsItDoesNotHave) {
  for (const auto& [place, value] : std::vector<std::pair<std::string, json>>{
           {"/normalizer", {{"type", "Lowercase"}}},
           {"/decoder", {{"type", "Metaspace"}}},
           {"/model/type", "Unigram"},
           {"/model/byte_fallback", true},
           {"/model/fuse_unk", true},
           {"/model/dropout", 0.1},
           {"/model/end_of_word_suffix", "</w>"},
           {"/added_tokens/0/lstrip", true},
           {"/pre_tokenizer", {{"type", "Metaspace"}}},
           {"/pre_tokenizer", nullptr},
           {"/pre_tokenizer/pretokenizers/0/behavior", "Removed"},
           {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "[a-z&&[^b]]+"},
           {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "(a"},
           {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\w+"},
           {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "a\\b"},
           {"/pre_tokenizer/pretokenizers/1/add_prefix_space", true},
           {"/post_processor", {{"type", "RobertaProcessing"}}}}) {
    EditedTokenizer tokenizer("llama3");
    tokenizer.content[json::json_pointer(place)] = value;
    tokenizer.ExpectError(absl::StatusCode::kUnimplemented, "tokenizer.json");
  }
}

// As huggingface/tokenizers finds them: names first that are not normalized, then the others in
// what lies between, normalized; and a special name that is text hides those inside it.
TEST(TokenizerJson, NamesAreFoundInTheirOrder) {
  EditedTokenizer edited("qwen");
  const auto add = [&](const char* name, bool special, bool normalized) {
    const auto id = static_cast<int32_t>(901 + edited.content["added_tokens"].size());
    edited.content["added_tokens"].push_back(
        {{"id", id}, {"content", name}, {"special", special}, {"normalized", normalized}});
    return id;
  };
  const int32_t cafe = add("caf\u00e9", false, true);
  add("aqq", false, true);
  const int32_t qqz = add("qqz", false, false);
  const int32_t special = add("<|xq|>", true, false);
  const int32_t xq = add("xq", false, false);
  const auto tokenizer = edited.Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("cafe\u0301", true), Ids{cafe});
  EXPECT_EQ(*(*tokenizer)->Encode("aqqz", true), (Ids{64, qqz}));
  EXPECT_EQ(*(*tokenizer)->Encode("xq<|xq|>xq", true), (Ids{xq, special, xq}));
  EXPECT_EQ(*(*tokenizer)->Encode("xq<|xq|>xq", false), (Ids{xq, 761, 87, 80, 781, xq}));
}

TEST(TokenizerJson, SpecialNamesInPlainRangesAreText) {
  EditedTokenizer edited("qwen");
  const auto add = [&](const char* name, bool normalized) {
    const auto id = static_cast<int32_t>(901 + edited.content["added_tokens"].size());
    edited.content["added_tokens"].push_back(
        {{"id", id}, {"content", name}, {"special", true}, {"normalized", normalized}});
    return id;
  };
  const int32_t mark = add("<|m|>", false);
  const int32_t cafe = add("<caf\u00e9>", true);
  const auto tokenizer = edited.Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  // Which of the two a text has, in their order.
  const auto found = [&](absl::string_view text, const std::vector<TextRange>& plain) {
    Ids ids = *(*tokenizer)->Encode(text, plain);
    std::erase_if(ids, [&](int32_t id) { return id != mark && id != cafe; });
    return ids;
  };
  EXPECT_EQ(found("<|m|>a<|m|>", {}), (Ids{mark, mark}));
  EXPECT_EQ(found("<|m|>a<|m|>", {{0, 5}}), (Ids{mark}));
  EXPECT_EQ(found("<|m|>a<|m|>", {{5, 6}}), (Ids{mark, mark})) << "touches neither";
  EXPECT_EQ(found("<|m|>a<|m|>", {{4, 7}}), (Ids{})) << "touches both";
  EXPECT_EQ(found("<|m|>a<|m|>", {{0, 1}, {10, 11}}), (Ids{}));
  EXPECT_EQ(found("<|<|m|>", {{0, 2}}), (Ids{mark}));
  EXPECT_EQ(found("a<caf\u00e9>", {{0, 1}}), (Ids{cafe}));
  EXPECT_EQ(found("a<caf\u00e9><|m|>", {{1, 3}}), (Ids{mark}));
  // Where normalization moves bytes, all of the part between names is as plain as any of it.
  EXPECT_EQ(found("e\u0301<caf\u00e9>", {}), (Ids{cafe}));
  EXPECT_EQ(found("e\u0301<caf\u00e9><|m|><caf\u00e9>", {{0, 3}}), (Ids{mark, cafe}));
  EXPECT_EQ(*(*tokenizer)->Encode("x<|m|>", std::vector<TextRange>{{0, 6}}),
            *(*tokenizer)->Encode("x<|m|>", false));
}

// Its category is Cf, but PCRE2 counts it among \s.
TEST(TokenizerJson, TheMongolianVowelSeparatorIsNoSpace) {
  const auto tokenizer = Tokenizer::Load(KVSHIP_GOLDENS "/tokenizers/llama3");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  // What huggingface/tokenizers gives: one space is alone, the other begins the piece with it.
  EXPECT_EQ(*(*tokenizer)->Encode("  \u180e", false), (Ids{220, 220, 157, 254, 236}));
}

TEST(TokenizerJson, RefusesWhatCannotBe) {
  for (const auto& [place, value] :
       std::vector<std::pair<std::string, json>>{{"/model", nullptr},
                                                 {"/model/vocab", json::array()},
                                                 {"/model/vocab/a", -1},
                                                 {"/model/vocab/a", uint64_t{1} << 50},
                                                 {"/model/vocab/a", 0},
                                                 {"/model/merges", "t h"},
                                                 {"/model/merges/0", "t"},
                                                 {"/model/merges/0", {"t", "nothing"}},
                                                 {"/model/merges/1", {"Ġ", "t"}},
                                                 {"/model/unk_token", "nothing"},
                                                 {"/added_tokens/0/content", 7},
                                                 {"/added_tokens/0/id", 1}}) {
    EditedTokenizer tokenizer("llama3");
    tokenizer.content["model"]["merges"][0] = {"Ġ", "t"};
    tokenizer.content[json::json_pointer(place)] = value;
    tokenizer.ExpectError(absl::StatusCode::kInvalidArgument, "tokenizer.json");
  }
}

// huggingface/tokenizers would give it another.
TEST(TokenizerJson, RefusesAnAddedTokenBehindAHole) {
  EditedTokenizer tokenizer("qwen");
  tokenizer.content["added_tokens"].erase(1);
  tokenizer.ExpectError(absl::StatusCode::kInvalidArgument,
                        "added_tokens[1]: id is 903; wanted 902, the number of tokens before it");
}

TEST(TokenizerJson, NamesTheIdThatCannotBe) {
  for (const auto& [id, words] : std::vector<std::pair<json, std::string>>{
           {-1, "model: vocab: a has id -1; wanted an integer of 0 or more"},
           {1.5, "a has id 1.5; wanted"},
           {"7", "a has id a string; wanted"}}) {
    EditedTokenizer tokenizer("llama3");
    tokenizer.content["model"]["vocab"]["a"] = id;
    tokenizer.ExpectError(absl::StatusCode::kInvalidArgument, words);
  }
}

TEST(TokenizerJson, DamageGivesAnErrorOrATokenizerButNoCrash) {
  const TempFolder folder;
  const std::string whole = ReadBytes(KVSHIP_GOLDENS "/tokenizers/unknown/tokenizer.json");
  size_t num_read = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    folder.Write("tokenizer.json", Damage(whole, 900, seed));
    const auto tokenizer = Tokenizer::Load(folder.path());
    num_read += tokenizer.ok();
    if (tokenizer.ok()) (*tokenizer)->Encode("The quick-brown fox 12", true).IgnoreError();
  }
  EXPECT_GT(num_read, 0u);
  EXPECT_LT(num_read, 290u);
}

TEST(Tokenizer, KnowsItsSpecialTokens) {
  const auto tokenizer = Tokenizer::Load(KVSHIP_GOLDENS "/tokenizers/llama3");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto end = (*tokenizer)->SpecialToken("<|eot_id|>");
  ASSERT_TRUE(end.has_value());
  EXPECT_TRUE((*tokenizer)->IsSpecial(*end));
  EXPECT_EQ((*tokenizer)->TokenBytes(*end), "<|eot_id|>");
  EXPECT_FALSE((*tokenizer)->SpecialToken("<tool>").has_value());  // added, but not special
  EXPECT_FALSE((*tokenizer)->IsSpecial(0));
  EXPECT_FALSE((*tokenizer)->IsSpecial(-1));
  EXPECT_EQ((*tokenizer)->TokenBytes(-1), "");
  EXPECT_EQ((*tokenizer)->TokenBytes(1 << 30), "");
}

TEST(Tokenizer, GivesBackTheBytesOfTheText) {
  const auto tokenizer = Tokenizer::Load(KVSHIP_GOLDENS "/tokenizers/llama3");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const json golden = json::parse(ReadBytes(KVSHIP_GOLDENS "/tokenizers/llama3/ids.json"));
  for (const json& reference : golden["cases"]) {
    const auto text = reference["text"].get<std::string>();
    const auto ids = (*tokenizer)->Encode(text, /*parse_special=*/true);
    ASSERT_TRUE(ids.ok()) << ids.status();
    std::string bytes;
    for (const int32_t id : *ids) bytes.append(std::string((*tokenizer)->TokenBytes(id)));
    EXPECT_EQ(bytes, text);
  }
}

TEST(Tokenizer, RefusesBytesThatAreNotUtf8) {
  const auto tokenizer = Tokenizer::Load(KVSHIP_GOLDENS "/tokenizers/digits");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->Encode("0123456789 ab\xff", true);
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ids.status().message()), HasSubstr("at byte 13 of 14"));
}

TEST(Tokenizer, HasAnIdentityThatFollowsTheContent) {
  const EditedTokenizer original("digits");
  EditedTokenizer edited("digits");
  const auto one = original.Load();
  EXPECT_EQ((*one)->identity(), (*original.Load())->identity());
  edited.content["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = false;
  const auto other = edited.Load();
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_NE((*one)->identity(), (*other)->identity());
}

TEST(GgufTokenizer, NamesWhatItDoesNotHave) {
  const TempFolder folder;
  const auto load = [&](const GgufWriter& gguf) {
    return Tokenizer::Load(folder.Write("model.gguf", gguf.Bytes())).status();
  };
  EXPECT_TRUE(load(TinyGguf()).ok());
  const absl::Status model = load(GgufWriter().Name("tokenizer.ggml.model", "bert"));
  EXPECT_EQ(model.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(model.message()), HasSubstr("tokenizer.ggml.model is bert"));
  GgufWriter other;
  other.Name("tokenizer.ggml.model", "gpt2").Name("tokenizer.ggml.pre", "falcon");
  EXPECT_EQ(load(other).code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(load(other).message()), HasSubstr("tokenizer.ggml.pre is falcon"));
}

TEST(GgufTokenizer, OfDeepSeeksDistilledQwenIsQwens) {
  const TempFolder folder;
  const auto identity = [&](const char* pre_tokenizer) {
    GgufWriter gguf;
    gguf.Name("tokenizer.ggml.model", "gpt2")
        .Name("tokenizer.ggml.pre", pre_tokenizer)
        .Names("tokenizer.ggml.tokens", {"a", "b", "ab"})
        .Names("tokenizer.ggml.merges", {"a b"});
    const auto tokenizer = Tokenizer::Load(folder.Write("model.gguf", gguf.Bytes()));
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok() ? (*tokenizer)->identity() : Sha256Digest{};
  };
  EXPECT_EQ(identity("deepseek-r1-qwen"), identity("qwen2"));
  EXPECT_NE(identity("deepseek-r1-qwen"), identity("gpt-2"));
}

// As huggingface/tokenizers does with the pattern of Mistral-Nemo's tokenizer.json.
TEST(GgufTokenizer, TekkenSplitsWordsAtTheirCapitals) {
  const TempFolder folder;
  GgufWriter gguf;
  gguf.Name("tokenizer.ggml.model", "gpt2")
      .Name("tokenizer.ggml.pre", "tekken")
      .Names("tokenizer.ggml.tokens", {"a", "b", "A", "B", "/", "Ċ", "1", "ab", "aB", "Ab", "AB",
                                       "bA", "//", "/Ċ", "11", "ABa", "Aba"})
      .Names("tokenizer.ggml.merges",
             {"a b", "a B", "A b", "A B", "b A", "/ /", "/ Ċ", "1 1", "AB a"});
  const auto tokenizer = Tokenizer::Load(folder.Write("model.gguf", gguf.Bytes()));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("abAbaBABa", false), (Ids{7, 16, 3, 15}));  // Aba: no merges
  EXPECT_EQ(*(*tokenizer)->Encode("11//\n", false), (Ids{6, 6, 12, 5}));
  EXPECT_EQ(*(*tokenizer)->Encode("bA", false), (Ids{1, 2}));
}

TEST(GgufTokenizer, GivesTheReferenceIdsOfTheDemoModel) {
  if (IsMissing(KVSHIP_DEMO_MODEL)) GTEST_SKIP() << "no " << KVSHIP_DEMO_MODEL;
  const auto tokenizer = Tokenizer::Load(KVSHIP_DEMO_MODEL);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectReferenceIds(**tokenizer, KVSHIP_GOLDENS "/smollm2/tokenizer.json");
  EXPECT_EQ((*tokenizer)->begin_token(), -1);
}

TEST(GgufTokenizer, NamesTheTokensThatChatTemplatesAskFor) {
  const TempFolder folder;
  const auto tokenizer = Tokenizer::Load(folder.Write("model.gguf", TinyGguf().Bytes()));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->begin_name(), "<|im_start|>");
  EXPECT_EQ((*tokenizer)->begin_token(), -1);
  EXPECT_EQ((*tokenizer)->end_name(), "<|im_end|>");
  GgufWriter lacking;
  lacking.Name("tokenizer.ggml.model", "gpt2")
      .Names("tokenizer.ggml.tokens", {"a"})
      .Names("tokenizer.ggml.merges", {})
      .Count("tokenizer.ggml.eos_token_id", 1);
  EXPECT_THAT(
      std::string(Tokenizer::Load(folder.Write("model.gguf", lacking.Bytes())).status().message()),
      HasSubstr("metadata tokenizer.ggml.eos_token_id is 1; wanted less than 1"));
}

TEST(TokenizerJson, TheFileBesideItNamesItsEndToken) {
  const TempFolder folder;
  folder.Write("tokenizer.json", ReadBytes(KVSHIP_GOLDENS "/tokenizers/llama3/tokenizer.json"));
  for (const auto& [config, end_tokens] : std::vector<std::pair<std::string, Ids>>{
           {R"({"eos_token": "<|eot_id|>"})", {903}},
           {R"({"eos_token": {"content": "<|end_of_text|>"}})", {902}},
           {R"({"eos_token": "<|none|>"})", {}},
           {R"({"eos_token": null})", {}}}) {
    folder.Write("tokenizer_config.json", config);
    const auto tokenizer = Tokenizer::Load(folder.path());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_THAT((*tokenizer)->end_tokens(), testing::ElementsAreArray(end_tokens)) << config;
  }
  folder.Write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": "</s>"})");
  const auto tokenizer = Tokenizer::Load(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->begin_name(), "<s>");
  EXPECT_EQ((*tokenizer)->end_name(), "</s>");
}

// The same pairs of letters joined one way in a short piece, another way in a long one: both must
// follow the ranks.
TEST(Tokenizer, JoinsLongPiecesAsItJoinsShortOnes) {
  const auto tokenizer = Tokenizer::Load(KVSHIP_GOLDENS "/tokenizers/llama3");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto encode = [&](const std::string& text) { return *(*tokenizer)->Encode(text, false); };
  // No merge crosses from x to q, so each repetition is joined by itself.
  const std::string word = "qthemodelprefillcachex";
  const Ids once = encode(word);
  Ids expected;
  std::string text;
  for (int i = 0; i < 100; ++i) {
    text += word;
    expected.insert(expected.end(), once.begin(), once.end());
  }
  EXPECT_EQ(encode(text), expected);
}

TEST(Tokenizer, TakesRunsOfAMillionBytes) {
  const auto tokenizer = Tokenizer::Load(KVSHIP_GOLDENS "/tokenizers/llama3");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const char byte : {'a', ' ', '<', '\n', '7'}) {
    const std::string text(1'000'000, byte);
    const auto ids = (*tokenizer)->Encode(text, true);
    ASSERT_TRUE(ids.ok()) << ids.status();
    size_t num_bytes = 0;
    for (const int32_t id : *ids) num_bytes += (*tokenizer)->TokenBytes(id).size();
    EXPECT_EQ(num_bytes, text.size());
  }
}

TEST(ByteAlphabet, GivesEveryByteBack) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string character = ByteCharacter(static_cast<unsigned char>(byte));
    EXPECT_EQ(DecodeByteCharacters(character), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(DecodeByteCharacters("\xe4\xbd\xa0"), std::nullopt);
}

}  // namespace
}  // namespace kvship
