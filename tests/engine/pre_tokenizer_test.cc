#include "engine/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace kvship {
namespace {

using testing::HasSubstr;

TEST(PreTokenizer, RefusesWhatMeansSomethingElseToOniguruma) {
  for (const auto& [pattern, words] : std::vector<std::pair<std::string, std::string>>{
           {"[[:alpha:]]+", "uses a POSIX class ([:name:]), which kvship does not translate"},
           {"[^\\]a[:^punct:]]", "a POSIX class"},
           {"[]a[:alpha:]]", "a POSIX class"},
           {"[a[bc]]", "a class in a class"},
           {"[a-z&&[^b]]+", "&&"},
           {"\\p{N}{1,3}+", "+ behind {n,m}"},
           {"a{2}+", "+ behind {n,m}"},
           {"a{2,}+", "+ behind {n,m}"},
           {"a{2}?", "? behind {n}"},
           {"a{,2}", "{,m}"},
           {"(?i-m:a)", "the option m"},
           {"[\\v]", "\\v"},
           {"\\Qa", "\\Q"}}) {
    const absl::Status status = PreTokenizer::Create({{pattern}}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << pattern;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
    EXPECT_THAT(std::string(status.message()), HasSubstr(pattern));
  }
}

TEST(PreTokenizer, TakesWhatOnlyLooksLikeIt) {
  for (const auto& [pattern, pieces] :
       std::vector<std::pair<std::string, std::vector<std::string>>>{
           {R"([\[:a:]+)", {"[:a", "b{2}+"}},
           {R"([]:[b]+)", {}},
           {R"(\{2}+)", {"[:ab", "{2}", "+"}},
           {R"([{2}+]+)", {"[:ab", "{2}+"}},
           {R"(\x{62}+)", {"[:a", "b", "{2}+"}},
           {R"(\p{L}{1,2}?|\p{N}{1,3})", {"[:", "a", "b", "{", "2", "}+"}},
           {R"((?i:M)|(?=b)b)", {"[:a", "b", "{2}+"}},
           {R"((?=[b2]))", {"[:a", "b{", "2}+"}},
           {R"(\d*)", {"[", ":", "a", "b", "{", "2", "}", "+"}},
           {R"(a++b)", {"[:", "ab", "{2}+"}}}) {
    const auto splits = PreTokenizer::Create({{pattern}});
    ASSERT_EQ(splits.ok(), !pieces.empty()) << splits.status();
    if (pieces.empty()) continue;
    std::vector<absl::string_view> found;
    ASSERT_TRUE(splits->Split("[:ab{2}+", found).ok());
    EXPECT_THAT(found, testing::ElementsAreArray(pieces)) << pattern;
  }
}

// As `tokenizers` splits, whose scripts have none of the characters that several share.
TEST(PreTokenizer, ScriptsAreThoseOfTheCharactersThemselves) {
  for (const char* pattern :
       {R"(\p{Han}+)", R"([\p{Han}a]+)", R"([^\P{Han}]+)", R"([^\p{^Han}]+)"}) {
    const auto splits = PreTokenizer::Create({{pattern}});
    ASSERT_TRUE(splits.ok()) << splits.status();
    std::vector<absl::string_view> found;
    ASSERT_TRUE(splits->Split("漢字、漢", found).ok());
    EXPECT_THAT(found, testing::ElementsAre("漢字", "、", "漢")) << pattern;
  }
}

}  // namespace
}  // namespace kvship
