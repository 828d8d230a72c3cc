#include "decode_service/tokenize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "rpc/errors.h"
#include "tests/decode_service/fake_tokenizer.h"

namespace kvship {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// An id for each byte, and 256 for "<end>".
class ByteTokenizer final : public FakeTokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              std::span<const TextRange> plain) const override {
    if (plain.empty() && text == "<end>") return std::vector<int32_t>{256};
    if (text == "\xff") return absl::InvalidArgumentError("not UTF-8");
    std::vector<int32_t> ids;
    for (unsigned char byte : text) ids.push_back(byte);
    return ids;
  }
  absl::string_view TokenBytes(int32_t id) const override {
    if (id == 256) return "<end>";
    return id < 256 ? absl::string_view(&bytes_[id], 1) : "";
  }
  bool IsSpecial(int32_t id) const override { return id == 256; }
  size_t vocab_tokens() const override { return 257; }
  int32_t begin_token() const override { return 1; }

 private:
  const std::string bytes_ = [] {
    std::string bytes(256, 0);
    std::iota(bytes.begin(), bytes.end(), 0);
    return bytes;
  }();
};

// The golden model has a vocabulary of 320.
class TokenizeTest : public ::testing::Test {
 protected:
  TokenizeTest() : model_(*ServedModel::Load(KVSHIP_GOLDENS "/models/llama")) {
    model_.tokenizer = std::make_unique<ByteTokenizer>();
  }

  std::vector<uint32_t> Ids(const std::string& text, bool parse_special = false) {
    v1::TokenizeRequest request;
    request.set_text(text);
    request.set_parse_special(parse_special);
    const auto response = Tokenize(request, model_);
    EXPECT_TRUE(response.ok()) << response.status();
    return {response->ids().begin(), response->ids().end()};
  }

  absl::StatusOr<std::string> Text(const std::vector<uint32_t>& ids) {
    v1::DetokenizeRequest request;
    request.mutable_ids()->Add(ids.begin(), ids.end());
    const auto response = Detokenize(request, model_);
    if (!response.ok()) return response.status();
    return response->text();
  }

  ServedModel model_;
};

TEST_F(TokenizeTest, TextComesBackAndTheBeginTokenIsLeftOut) {
  EXPECT_THAT(Ids("AB"), ElementsAre('A', 'B'));
  for (const std::string text : {"", "a line of 1234\n and \u20ac", "\t  x"}) {
    EXPECT_EQ(*Text(Ids(text)), text);
  }
}

TEST_F(TokenizeTest, NamesOfSpecialTokensAreThemWhereAskedFor) {
  EXPECT_EQ(Ids("<end>").size(), 5u);
  EXPECT_THAT(Ids("<end>", /*parse_special=*/true), ElementsAre(256));
  EXPECT_EQ(*Text({256}), "<end>");
}

TEST_F(TokenizeTest, CutCharactersBecomeReplacements) {
  const std::vector<uint32_t> ids = Ids("\u20ac");
  ASSERT_GT(ids.size(), 1u);
  EXPECT_EQ(*Text({ids.begin(), ids.end() - 1}), "\ufffd");
}

TEST_F(TokenizeTest, WrongIdsAreNamedByIndex) {
  const absl::Status status = Text({5, 320, 7}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FieldOf(status), "ids[1]");
  EXPECT_THAT(std::string(status.message()), HasSubstr("is 320; wanted an id below"));
}

TEST_F(TokenizeTest, BrokenTextIsNamed) {
  v1::TokenizeRequest request;
  request.set_text("\xff");
  EXPECT_EQ(FieldOf(Tokenize(request, model_).status()), "text");
}

TEST_F(TokenizeTest, TextTooLongForAnyPromptIsRefused) {
  model_.most_text_bytes = 3;
  v1::TokenizeRequest request;
  request.set_text("abc");
  EXPECT_TRUE(Tokenize(request, model_).ok());
  request.set_text("abcd");
  const absl::Status status = Tokenize(request, model_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("text has 4 bytes; wanted at most 3"));
}

TEST_F(TokenizeTest, NoTokenizerIsAPrecondition) {
  model_.tokenizer = nullptr;
  EXPECT_EQ(Tokenize({}, model_).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Text({1}).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace kvship
