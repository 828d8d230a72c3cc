// Tokenizers in the manner of SentencePiece, from both kinds of checkpoints.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/tokenizer.h"
#include "tests/engine/model_files.h"
#include "tests/engine/reference_ids.h"

namespace kvship {
namespace {

using nlohmann::json;

constexpr char kFolder[] = KVSHIP_GOLDENS "/tokenizers/sentencepiece";
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

TEST(SentencePiece, GivesTheReferenceIds) {
  const auto tokenizer = Tokenizer::Load(kFolder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectReferenceIds(**tokenizer, absl::StrCat(kFolder, "/ids.json"));
  EXPECT_EQ((*tokenizer)->begin_token(), 1);
}

// As newer files have it: a space before the text alone, and not before one.
json Metaspace() {
  return {{"type", "Metaspace"},
          {"replacement", "\u2581"},
          {"prepend_scheme", "first"},
          {"split", false}};
}

TEST(SentencePiece, GivesTheReferenceIdsOfMetaspace) {
  EditedTokenizer newer("sentencepiece");
  newer.content["normalizer"] = nullptr;
  newer.content["pre_tokenizer"] = Metaspace();
  const auto tokenizer = newer.Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectReferenceIds(**tokenizer, absl::StrCat(kFolder, "/metaspace_ids.json"));
  EXPECT_NE((*tokenizer)->identity(), (*Tokenizer::Load(kFolder))->identity());
}

// What huggingface/tokenizers gives.
TEST(SentencePiece, ASpaceBeforeAllPartsIsNotBeforeSpaces) {
  const auto prepends = Tokenizer::Load(kFolder);
  EditedTokenizer newer("sentencepiece");
  newer.content["pre_tokenizer"] = Metaspace();
  newer.content["pre_tokenizer"]["prepend_scheme"] = "always";
  const auto both = newer.Load();
  newer.content["normalizer"] = nullptr;
  const auto always = newer.Load();
  ASSERT_TRUE(prepends.ok() && both.ok() && always.ok()) << both.status() << always.status();
  const auto encode = [](const auto& tokenizer, const char* text) {
    return *(*tokenizer)->Encode(text, /*parse_special=*/true);
  };
  EXPECT_EQ(encode(always, "one</s>two"), encode(prepends, "one</s>two"));
  EXPECT_EQ(encode(always, " one</s> two"), encode(prepends, "one</s>two"));
  EXPECT_EQ(encode(both, " one</s> two"), encode(prepends, " one</s> two"));
  EXPECT_NE((*always)->identity(), (*prepends)->identity());
}

// The vocabulary of the reference results in a GGUF file, which scores tokens: the earlier a merge
// makes one, the higher.
class SentencePieceGguf {
 public:
  SentencePieceGguf() {
    const json file = json::parse(ReadBytes(absl::StrCat(kFolder, "/tokenizer.json")));
    const json& model = file["model"];
    tokens.resize(model["vocab"].size());
    for (const auto& [name, id] : model["vocab"].items()) tokens[id.get<size_t>()] = name;
    types.assign(tokens.size(), 1);
    types[0] = 2;
    types[1] = types[2] = 3;
    for (size_t byte = 0; byte < 256; ++byte) types[3 + byte] = 6;
    scores.assign(tokens.size(), 0);
    float score = 0;
    for (const json& merge : model["merges"]) {
      const std::string joined = merge[0].get<std::string>() + merge[1].get<std::string>();
      float& of = scores[model["vocab"][joined].get<size_t>()];
      --score;
      if (of == 0) of = score;
    }
  }

  absl::StatusOr<std::unique_ptr<const Tokenizer>> Load() const {
    std::string bytes = BytesOf(uint32_t{kGgufFloat32}) + BytesOf(uint64_t{scores.size()});
    for (const float score : scores) bytes += BytesOf(score);
    GgufWriter gguf;
    gguf.Name("tokenizer.ggml.model", "llama")
        .Names("tokenizer.ggml.tokens", tokens)
        .Integers("tokenizer.ggml.token_type", types)
        .Value("tokenizer.ggml.scores", kGgufArray, bytes)
        .Count("tokenizer.ggml.bos_token_id", 1);
    const TempFolder folder;
    return Tokenizer::Load(folder.Write("model.gguf", gguf.Bytes()));
  }
  void ExpectError(const std::string& words) const {
    const auto tokenizer = Load();
    EXPECT_EQ(tokenizer.status().code(), kInvalid) << tokenizer.status();
    EXPECT_THAT(std::string(tokenizer.status().message()), testing::HasSubstr(words));
  }

  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<float> scores;
};

TEST(SentencePiece, OfAGgufFileGivesTheSameIds) {
  const auto tokenizer = SentencePieceGguf().Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectReferenceIds(**tokenizer, absl::StrCat(kFolder, "/ids.json"));
  EXPECT_EQ((*tokenizer)->begin_token(), 1);  // though the file does not ask for it
}

// What llama.cpp gives, and SentencePiece.
TEST(SentencePiece, OfEqualScoresTheLeftmostJoinsFirst) {
  SentencePieceGguf gguf;
  for (const char* token : {"zx", "qz"}) {
    gguf.tokens.push_back(token);
    gguf.types.push_back(1);
    gguf.scores.push_back(-1e6);
  }
  const auto tokenizer = gguf.Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::vector<std::string> names;
  const std::vector<int32_t> ids = *(*tokenizer)->Encode("qzx", /*parse_special=*/false);
  for (const int32_t id : ids) names.push_back(gguf.tokens[id]);
  EXPECT_THAT(names, testing::ElementsAre("\u2581", "qz", "x"));
}

TEST(SentencePiece, DamagedGgufFilesAreNamed) {
  SentencePieceGguf few;
  few.scores.pop_back();
  few.ExpectError("tokenizer.ggml.scores is not one number for each of the 900 tokens");
  SentencePieceGguf nan;
  nan.scores[300] = NAN;
  nan.ExpectError("tokenizer.ggml.scores[300] is nan; wanted a finite number");
  SentencePieceGguf no_byte;
  no_byte.tokens[3 + 0x41] = "A byte";
  no_byte.ExpectError("token <0x41> is missing");
}

TEST(SentencePiece, TokensAreTheBytesOfTheText) {
  const auto tokenizer = Tokenizer::Load(kFolder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const std::string text : {"Hello, world!", "  two  ", "\xF0\x9F\x99\x82 \u65e5", "<0x41>"}) {
    std::string back;
    const auto ids = (*tokenizer)->Encode(text, false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    for (const int32_t id : *ids) {
      absl::StrAppend(&back, (*tokenizer)->TokenBytes(id));
    }
    EXPECT_EQ(back, " " + text);
  }
  EXPECT_EQ((*tokenizer)->TokenBytes(3 + 0xE2), "\xE2");
  EXPECT_EQ((*tokenizer)->TokenBytes(1), "<s>");
}

TEST(SentencePiece, RefusesPartsItDoesNotHave) {
  json splits = Metaspace(), sometimes = Metaspace();
  splits["split"] = true;
  sometimes["prepend_scheme"] = "sometimes";
  for (const auto& [place, value] :
       std::vector<std::pair<std::string, json>>{{"/normalizer", nullptr},
                                                 {"/normalizer", {{"type", "NFKC"}}},
                                                 {"/normalizer/normalizers/0/prepend", "_"},
                                                 {"/normalizer/normalizers/1/pattern/String", "x"},
                                                 {"/pre_tokenizer", splits},
                                                 {"/pre_tokenizer", sometimes},
                                                 {"/decoder/decoders/0/type", "WordPiece"},
                                                 {"/model/ignore_merges", true},
                                                 {"/added_tokens/1/normalized", true}}) {
    EditedTokenizer tokenizer("sentencepiece");
    tokenizer.content[json::json_pointer(place)] = value;
    SCOPED_TRACE(place);
    tokenizer.ExpectError(kUnimplemented, "wanted");
  }
}

TEST(SentencePiece, TextDoesNotBecomeASpecialTokenByMerges) {
  EditedTokenizer edited("sentencepiece");
  json& model = edited.content["model"];
  model["vocab"]["</"] = 900;
  model["vocab"]["s>"] = 901;
  for (const char* merge : {"< /", "s >", "</ s>"}) model["merges"].push_back(merge);
  const auto tokenizer = edited.Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->Encode("x</s>", /*parse_special=*/false);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(std::count(ids->begin(), ids->end(), 2), 0);
  EXPECT_EQ(std::count(ids->begin(), ids->end(), 900), 1);
}

// What huggingface/tokenizers gives.
TEST(SentencePiece, AnAddedSpaceIsThatOfTheText) {
  EditedTokenizer edited("sentencepiece");
  const int32_t id = edited.content["model"]["vocab"]["\u2581"];
  const auto plain = edited.Load();
  edited.content["added_tokens"].push_back(
      {{"id", id}, {"content", "\u2581"}, {"special", false}, {"normalized", false}});
  const auto added = edited.Load();
  ASSERT_TRUE(plain.ok() && added.ok()) << added.status();
  for (const char* text : {"The License", "two  spaces ", "\u65e5 x"}) {
    EXPECT_EQ(*(*added)->Encode(text, false), *(*plain)->Encode(text, false)) << text;
  }
  EXPECT_EQ((*added)->TokenBytes(id), " ");
  edited.content["added_tokens"].back()["special"] = true;
  edited.ExpectError(kUnimplemented, "\"\u2581\", which stands for a space, is special");
}

TEST(SentencePiece, ALongTextTakesNoTime) {
  const auto tokenizer = Tokenizer::Load(kFolder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::string words = "The License shall mean the terms and conditions. ";
  std::string text;
  while (text.size() < 2'000'000) text += words;
  const auto ids = (*tokenizer)->Encode(text, false);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_LT(ids->size(), text.size() / 2);
}

}  // namespace
}  // namespace kvship
