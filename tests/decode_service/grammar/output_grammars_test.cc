#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "decode_service/grammar/output_matcher.h"
#include "tests/decode_service/grammar/structure_walk.h"

namespace kvship {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kInteger[] = R"({"type": "integer"})";

// Schemas that are let through and cannot be compiled, and what is said of each.
constexpr std::pair<const char*, const char*> kRefused[] = {
    {R"({"$ref": "#"})", "Circular $ref chain with no schema content: # -> #"},
    {R"({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
         "$ref": "#/$defs/a"})",
     "Circular $ref chain with no schema content: #/$defs/a -> #/$defs/b -> #/$defs/a"},
    {R"({"type": "array", "items": false, "minItems": 1})", "minItems is greater than the number"},
    {R"({"type": "array", "prefixItems": [{}, {}], "maxItems": 1})", "maxItems is less than the"},
};

TEST(OutputGrammarsTest, WhatCannotBeCompiledIsRefusedEachTime) {
  for (int time = 0; time < 2; ++time) {
    for (const auto& [schema, message] : kRefused) {
      EXPECT_THAT(WalkSchema(schema, "1"), StartsWith(absl::StrCat("INVALID_ARGUMENT: ", message)));
    }
    EXPECT_EQ(WalkSchema(kInteger, "5"), "");
  }
}

TEST(OutputGrammarsTest, WhatIsNoStructureIsRefused) {
  for (const char* structure :
       {"", "{", "[]", "{}", "\xff", R"({"type": "structural_tag"})",
        R"({"type": "structural_tag", "format": {"type": "other"}})",
        R"({"type": "structural_tag", "format": {"type": "json_schema", "json_schema": 5}})"}) {
    const auto matcher = TheGrammars().Match(structure);
    ASSERT_TRUE(absl::IsInvalidArgument(matcher.status())) << matcher.status();
    EXPECT_NE(matcher.status().message(), "");
  }
  EXPECT_EQ(WalkSchema(kInteger, "5"), "");
}

TEST(OutputGrammarsTest, WhatTakesTooLongToFollowEnds) {
  std::vector<std::string> nodes;
  for (int i = 0; i < 65; ++i) {
    nodes.push_back(R"({"type": ["array", "object", "string"], "items": {"$ref": "#"}})");
  }
  const auto structure =
      StructureOf(absl::StrCat(R"({"anyOf": [)", absl::StrJoin(nodes, ", "), "]}"));
  ASSERT_TRUE(structure.ok()) << structure.status();
  const auto matcher = *TheGrammars().Match(*structure);
  absl::Status status;
  int num_tokens = 0;
  for (; status.ok() && num_tokens < 1000; ++num_tokens) {
    ASSERT_TRUE(matcher->Accept('[').ok());
    status = matcher->Allowed().status();
  }
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              StartsWith("the output's structure takes too long to follow"));
}

TEST(OutputGrammarsTest, MessagesAreShort) {
  const std::string name(500, 'x');
  const auto structure = StructureOf(absl::StrCat(
      R"({"$defs": {")", name, R"(": {"$ref": "#"}}, "$ref": "#/$defs/)", name, "\"}"));
  ASSERT_TRUE(structure.ok()) << structure.status();
  const auto matcher = TheGrammars().Match(*structure);
  EXPECT_THAT(std::string(matcher.status().message()), StartsWith("Circular $ref chain"));
  EXPECT_EQ(matcher.status().message().size(), 200u);
}

TEST(OutputGrammarsTest, MatchersOfOneStructureAreApart) {
  const std::string structure = *StructureOf(R"({"enum": [12, 34]})");
  const auto one = *TheGrammars().Match(structure), other = *TheGrammars().Match(structure);
  EXPECT_EQ(one->Accept('1'), absl::OkStatus());
  EXPECT_EQ(other->Accept('3'), absl::OkStatus());
  EXPECT_TRUE(Allows(*one->Allowed(), '2'));
  EXPECT_TRUE(Allows(*other->Allowed(), '4'));
  EXPECT_FALSE(Allows(*other->Allowed(), '2'));
}

TEST(OutputGrammarsTest, OtherTokensThanThoseAllowedAreRefused) {
  const auto matcher = *TheGrammars().Match(*StructureOf(R"({"type": "string"})"));
  EXPECT_EQ(matcher->Accept('"'), absl::OkStatus());
  for (const int32_t token : {int32_t{'\n'}, WalkedTokenizer::kEnd, WalkedTokenizer::kOtherEnd,
                              WalkedTokenizer::kSpecial, 319, 320, 1000000, -1}) {
    const absl::Status status = matcher->Accept(token);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  }
  EXPECT_EQ(matcher->Accept('\n').message(),
            "the token 10 is none of those that the output's structure allows");
  EXPECT_EQ(matcher->Accept('"'), absl::OkStatus());
  EXPECT_EQ(matcher->Accept(WalkedTokenizer::kOtherEnd), absl::OkStatus());
  EXPECT_TRUE(absl::IsInvalidArgument(matcher->Accept(WalkedTokenizer::kEnd)));
  EXPECT_TRUE(absl::IsInternal(matcher->Allowed().status()));
}

TEST(OutputGrammarsTest, OnlyTheEndIsLeftBehindTheLastCharacter) {
  const auto matcher = *TheGrammars().Match(*StructureOf(R"({"const": 1})"));
  EXPECT_EQ(matcher->Accept('1'), absl::OkStatus());
  TokenMask ends(TokenMaskWords(WalkedTokenizer::kRows));
  for (const int32_t end : {WalkedTokenizer::kEnd, WalkedTokenizer::kOtherEnd}) {
    ends[end / 32] |= 1u << (end % 32);
  }
  EXPECT_EQ(*matcher->Allowed(), ends);
}

TEST(OutputGrammarsTest, WhatTheVocabularyCannotSpellIsInternal) {
  const WalkedTokenizer tokenizer("q\x80");
  const ModelConfig model = WalkedModel();
  const auto grammars = MakeOutputGrammars(tokenizer, model);
  for (const char* text : {"\"xq\"", "\"x\xe2\x82\x80\""}) {
    const auto matcher = grammars->Match(*StructureOf(absl::StrCat(R"({"const": )", text, "}")));
    ASSERT_TRUE(matcher.ok()) << matcher.status();
    EXPECT_EQ((*matcher)->Accept('"'), absl::OkStatus());
    EXPECT_TRUE((*matcher)->Allowed().ok());
    EXPECT_EQ((*matcher)->Accept('x'), absl::OkStatus());
    if (text[2] != 'q') {
      EXPECT_EQ((*matcher)->Accept(0xe2), absl::OkStatus());
      EXPECT_EQ((*matcher)->Accept(0x82), absl::OkStatus());
    }
    const auto allowed = (*matcher)->Allowed();
    EXPECT_TRUE(absl::IsInternal(allowed.status()));
    EXPECT_THAT(std::string(allowed.status().message()),
                HasSubstr("no token for what the output's structure"));
  }
  EXPECT_EQ(WalkWhole(*StructureOf(R"({"type": "string"})"), R"("x")", *grammars), "");
}

TEST(OutputGrammarsTest, WhatNoOutputSatisfiesIsInternal) {
  const auto matcher = TheGrammars().Match(
      *StructureOf(R"({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"})"));
  ASSERT_TRUE(matcher.ok()) << matcher.status();
  EXPECT_TRUE(absl::IsInternal((*matcher)->Allowed().status()));
}

// Calls `function` with 0 to 119 in four threads.
template <typename Function>
void InThreads(const Function& function) {
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&function, thread] {
      for (int i = 0; i < 30; ++i) function(i * 4 + thread);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(OutputGrammarsTest, ThreadsUseOneAtATime) {
  const ModelConfig model = WalkedModel();
  const auto grammars = MakeOutputGrammars(TheWalkedTokenizer(), model);
  InThreads([&grammars](int i) {
    const std::string name = absl::StrCat("n", i % 7);
    const std::string schema = absl::StrCat(R"({"properties": {")", name,
                                            R"(": {"type": "integer"}, "s": {"maxLength": 3,)",
                                            R"( "type": "string"}}, "required": [")", name, "\"]}");
    const std::string structure = *StructureOf(schema);
    EXPECT_EQ(WalkWhole(structure, absl::StrCat("{\"", name, "\": 5,\"s\":\"abc\"}"), *grammars),
              "");
    EXPECT_THAT(WalkWhole(structure, absl::StrCat("{\"", name, "\": null}"), *grammars),
                StartsWith("not n behind "));
  });
}

TEST(OutputGrammarsTest, WhatCannotBeCompiledIsRefusedInEveryThread) {
  const ModelConfig model = WalkedModel();
  const auto grammars = MakeOutputGrammars(TheWalkedTokenizer(), model);
  InThreads([&grammars](int i) {
    const auto& [schema, message] = kRefused[i / 8 % std::size(kRefused)];
    EXPECT_THAT(WalkWhole(*StructureOf(schema), "1", *grammars), HasSubstr(message));
    EXPECT_EQ(WalkWhole(*StructureOf(kInteger), "5", *grammars), "");
  });
}

}  // namespace
}  // namespace kvship
