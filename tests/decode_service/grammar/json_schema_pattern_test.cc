#include "decode_service/grammar/json_schema_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "decode_service/grammar/json_schema.h"
#include "decode_service/grammar/pattern_positions.h"
#include "tests/decode_service/grammar/pattern_search.h"
#include "tests/decode_service/grammar/structure_walk.h"

namespace kvship {
namespace {

using ::testing::StartsWith;

std::string SchemaOf(const std::string& pattern) {
  return nlohmann::json({{"type", "string"}, {"pattern", pattern}}).dump();
}

bool MayBe(const std::string& pattern, absl::string_view content) {
  const std::string why = WalkSchema(SchemaOf(pattern), absl::StrCat("\"", content, "\""));
  EXPECT_THAT(why, ::testing::AnyOf("", StartsWith("not "))) << pattern;
  return why.empty();
}

TEST(JsonSchemaPatternTest, StringsAreThoseInWhichItIsFound) {
  const char* const patterns[] = {
      "",
      "^",
      "$",
      "^$",
      "a",
      "^a",
      "a$",
      "^a$",
      "^a|b$",
      "^a$|^b+$|-",
      "^(a|b)$",
      "^(?:a|bc|)$",
      "^(?<letter>a)b$",
      "^(a(b(c)?)?)?$",
      "^()$",
      "^a*$",
      "^a+?b??$",
      "^[abc]{2}$",
      "^[a-c]{2,3}$",
      "^[^a-c]{2,}$",
      "^(ab|c){0,2}?$",
      "^(a?){2,3}$",
      "^(a*b?)*$",
      "^(a|a)*b$",
      "^[a-c]{2}(-\\d+)?$",
      "^(ab+)?$",
      "^(b+|ab){2,}$",
      "^((a?b+){1,}c?){0,2}$",
      "^.$",
      "^..$",
      "^a.c$",
      "^\\d+$",
      "^\\D$",
      "^\\w{3}$",
      "^\\W$",
      "^[\\d.]+$",
      "^[^\\W\\d]$",
      "^[a\\-c]+$",
      "^[-a]+$",
      "^[a-]+$",
      "^[\\w-]+$",
      "^[\\^]$",
      "^[a^]$",
      "^\\^\\$$",
      "^[.*+?(){|}]$",
      "^\\.\\*\\+\\?\\(\\)\\{\\|\\}\\/$",
      "^[[]\\]$",
      "^\\x61$",
      "^\\u0061$",
      "^\\u{e9}$",
      "^\\u{1f600}$",
      "^[\\u{80}-\\u{10ffff}]$",
      "^é$",
      "^[é€]$",
      "^[^é]$",
      "^😀?$",
      "^\\+?[1-9]\\d{1,14}$",
      "^[A-Z]{2}-\\d{2,4}$",
      "^#[0-9a-f]{6}$",
      "^https?://.+",
      "^\\d{4}-(0[1-9]|1[0-2])$",
      "^[a-z0-9]+(-[a-z0-9]+)*$",
      "^[a-z]{120}$",
      "^.{3,128}$",
      "^.{120,}$",
  };
  const std::string long_text(120, 'x');
  const std::string texts[] = {"",
                               "a",
                               "b",
                               "c",
                               "aa",
                               "ab",
                               "ba",
                               "bb",
                               "bc",
                               "cab",
                               "abc",
                               "abab",
                               "aabb",
                               "abcc",
                               "cc",
                               "xab",
                               "5",
                               "15",
                               "1.5",
                               "123456789012345",
                               "1234567890123456",
                               "+49170",
                               "-",
                               "a-b",
                               "-a",
                               "_",
                               "^",
                               "^$",
                               "[]",
                               "[",
                               ".",
                               "*",
                               "{",
                               "}",
                               ".*+?(){|}/",
                               " ",
                               "é",
                               "éé",
                               "€",
                               "😀",
                               "AB-123",
                               "AB-12345",
                               "#00ff7f",
                               "https://a.b/c",
                               "http://",
                               "2024-12",
                               "2024-13",
                               "a-b-c1",
                               "a--b",
                               long_text,
                               long_text + "é",
                               long_text.substr(1),
                               long_text + long_text};
  for (const char* pattern : patterns) {
    const PatternSearch search(pattern);
    for (const std::string& text : texts) {
      EXPECT_EQ(MayBe(pattern, text), search.Finds(text)) << pattern << "\n" << text;
    }
  }
}

TEST(JsonSchemaPatternTest, NoStringHasEscapes) {
  for (const char* pattern :
       {"^.*$", "^[^a]*$", "^\\D*$", "^\\S*$", "^[\\s\\S]*$", "", "a?", "^[\"\\\\\\n-]*$"}) {
    EXPECT_TRUE(MayBe(pattern, "-")) << pattern;
    for (const absl::string_view text :
         {"\"", "\\\"", "\\\\", "\\n", "\\u002d", "\n", "\x1f", "\xff", "\xed\xa0\x80", "\xc0\x80",
          "\xe0\x80\x80", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80"}) {
      EXPECT_FALSE(MayBe(pattern, text)) << pattern << "\n" << absl::CHexEscape(text);
    }
  }
}

// Where PCRE2 has others.
TEST(JsonSchemaPatternTest, WhiteSpaceAndLineEndsAreThoseOfEcmaScript) {
  for (const char* space : {" ", "\xc2\xa0", "\xe1\x9a\x80", "\xe2\x80\x8a", "\xe2\x80\xa8",
                            "\xe3\x80\x80", "\xef\xbb\xbf"}) {
    EXPECT_TRUE(MayBe("^\\s$", space));
    EXPECT_TRUE(MayBe("^[^\\S]$", space));
    EXPECT_FALSE(MayBe("^\\S$", space));
  }
  for (const char* other : {"a", "\xe2\x80\x8b", "\xc2\x85"}) EXPECT_FALSE(MayBe("^\\s$", other));
  for (const char* line_end : {"\xe2\x80\xa8", "\xe2\x80\xa9"})
    EXPECT_FALSE(MayBe("^.$", line_end));
  EXPECT_TRUE(MayBe("^.$", "\xc2\x85"));
  EXPECT_TRUE(MayBe("^\\ud83d\\ude00$", "😀"));
  EXPECT_TRUE(MayBe("^[\\ud83d\\ude00-\\ud83d\\ude02]$", "😁"));
}

// Characters of which no two are neighbours.
std::string EveryOther(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) absl::StrAppendFormat(&text, "\\u{%x}", 0x100 + 2 * i);
  return text;
}

// A group in `depth` groups that repeat it.
std::string NestedGroups(const std::string& inner, const std::string& times, int depth) {
  std::string text = "(" + inner + ")";
  for (int i = 0; i < depth; ++i) text = "(" + text + times + ")";
  return text;
}

TEST(JsonSchemaPatternTest, OthersAreRefused) {
  const std::pair<std::string, const char*> rows[] = {
      {"(?=a)b", "it without (?= at its character 0"},
      {"a(?!b)", "it without (?! at its character 1"},
      {"(?<=a)b", "it without (?<= at its character 0"},
      {"(?<!a)b", "it without (?<! at its character 0"},
      {"(?i)a", "it without (?i at its character 0"},
      {"(?P<a>b)", "it without (?P at its character 0"},
      {"(?", "it without (? at its character 0"},
      {"\\bword\\b", "it without \\b at its character 0"},
      {"(a)\\1", "it without \\1 at its character 3"},
      {"\\k<a>", "it without \\k at its character 0"},
      {"^\\p{L}+$", "it without \\p at its character 1"},
      {"\\cA", "it without \\c at its character 0"},
      {"\\0", "it without \\0 at its character 0"},
      {"\\é", "something else at its character 0"},
      {"a^", "it without ^ at its character 1"},
      {"a$b", "it without $ at its character 1"},
      {"(^a)", "it without ^ at its character 1"},
      {"(a$)", "it without $ at its character 2"},
      {"^*", "it without * at its character 1"},
      {"*", "it without * at its character 0"},
      {"a**", "it without * at its character 2"},
      {"a{2}{3}", "it without { at its character 4"},
      {"a++", "it without + at its character 2"},
      {"(|*)", "it without * at its character 2"},
      {"a|?", "it without ? at its character 2"},
      {"]", "it without ] at its character 0"},
      {"a}", "it without } at its character 1"},
      {"a)", "it without ) at its character 1"},
      {"{2}", "it without { at its character 0"},
      {"a{", "bounds as in {2}, {2,} or {2,3} at its character 1"},
      {"a{,3}", "bounds as in {2}, {2,} or {2,3} at its character 1"},
      {"a{0}", "bounds as in {2}, {2,} or {2,3} at its character 1"},
      {"a{3,2}", "bounds as in {2}, {2,} or {2,3} at its character 1"},
      {"a{2,3", "bounds as in {2}, {2,} or {2,3} at its character 1"},
      {"a{2, 3}", "bounds as in {2}, {2,} or {2,3} at its character 1"},
      {"(a", "a ) for the ( at its character 0"},
      {"(?<a", "a ) for the ( at its character 0"},
      {"b[a", "a ] for the [ at its character 1"},
      {"[a\\", "something behind the backslash at its character 2"},
      {"[]", "something before the ] at its character 1"},
      {"[]a]", "something before the ] at its character 1"},
      {"[^]", "something before the ] at its character 2"},
      {"[b-a]", "- between two characters in their order at its character 2"},
      {"[a-\\d]", "- between two characters in their order at its character 2"},
      {"[\\w-a]", "- between two characters in their order at its character 3"},
      {"[a--]", "- between two characters in their order at its character 2"},
      {"\\", "something behind the backslash at its character 0"},
      {"\\xg0", "the code of a character at its character 0"},
      {"\\x6", "the code of a character at its character 0"},
      {"\\u12", "the code of a character at its character 0"},
      {"\\u{}", "the code of a character at its character 0"},
      {"\\u{110000}", "the code of a character at its character 0"},
      {"\\u{0000061}", "the code of a character at its character 0"},
      {"\\ud83d\\u0061", "the code of a character at its character 0"},
      {"a\"", "a character that JSON writes without an escape at its character 1"},
      {"\\n", "a character that JSON writes without an escape at its character 0"},
      {"[\\\\\\t]", "a character that JSON writes without an escape at its character 0"},
      {"\\ud83d", "a character that JSON writes without an escape at its character 0"},
      {std::string("\0", 1), "a character that JSON writes without an escape at its character 0"},
      {"a{129}", "at most 128 repetitions of a part"},
      {"a{99999999999999999999}", "at most 128 repetitions of a part"},
      {"^(a{40}){26}$", "at most 1000 characters, repetitions written out"},
      {"^((a|b){20}|c{20}){20}$", "at most 1000 characters, repetitions written out"},
      {"^(a{100}){6}|(b{100}){6}$", "at most 1000 characters, repetitions written out"},
      {"^(a{100}){10}b$", "at most 1000 characters, repetitions written out"},
      {"^" + NestedGroups("", "{2,}", 31) + "$",
       "at most 1000 characters, repetitions written out"},
      {"^" + NestedGroups("", "{100}", 2) + "$",
       "at most 1000 characters, repetitions written out"},
      {"^" + NestedGroups("a|||||||", "{30}", 2) + "$",
       "at most 1000 characters, repetitions written out"},
      {std::string(1001, 'a'), "at most 1000 characters"},
      {"^[^" + EveryOther(101) + "]$", "at most 100 ranges of characters at its character 1"},
      {std::string(100, '('), "no deeper groups at its character 32"},
  };
  for (const auto& [pattern, message] : rows) {
    const auto read = ReadSchemaPattern(pattern);
    EXPECT_TRUE(absl::IsInvalidArgument(read.status())) << pattern;
    EXPECT_EQ(read.status().message(), message) << pattern;
  }
}

TEST(JsonSchemaPatternTest, CostIsOfPositionsAndOfThoseThatATextIsAtAtOnce) {
  constexpr size_t kEndless = PatternPositions::kEndless;
  const std::pair<std::string, size_t> rows[] = {
      {"^$", 0},
      {"^ab$", 2},
      {"^é$", 4},
      {"^[a-zé].$", 8},
      {"", 2 * 8},
      {"^a", 5},
      {"a", 3 * 9},
      {"^a*b+c?$", 3},
      {"^a{5}$", 5},
      {"^a{5,}$", 5},
      {"^a{5,9}$", 9},
      {"^a?a$", 2 * 2},
      {"^a{2,3}a{0,2}$", 2 * 5},
      {"^(a|b|ab)c$", 2 * 5},
      {"^(a|bc){3}$", 9},
      {"^((ab){2}){3}$", 12},
      {"^(){100}$", 0},
      {"^(a?){30}$", 30 * 30},
      {"^(a|b)*a(a|b){3}$", 5 * 9},
      {"^[\\w.+-]{1,64}@[\\w-]{1,63}(\\.[\\w-]{2,63})+$", 64 + 1 + 63 + 64},
      {"^(.*a){60}$", kEndless},
  };
  for (const auto& [pattern, cost] : rows) {
    EXPECT_EQ(ReadSchemaPattern(pattern)->cost.steps, cost) << pattern;
  }
}

TEST(JsonSchemaPatternTest, LettersAndSpacesTakeLongToCompile) {
  const std::pair<const char*, size_t> rows[] = {
      {"^\\d{10}$", 2'000},    {"^[0-9a-f]{10}$", 2'000},     {"^[A-Z ]{10}$", 2'000},
      {"^[a-z]{10}$", 37'000}, {"^\\w{10}$", 37'000},         {"^[a-z ]{10}$", 97'000},
      {"^[^,]{10}$", 132'000}, {"^([a-z]+ ){5}$", 5 * 9'900}, {"^([a-z ]?){11}$", 2 * 11 * 9'700},
  };
  for (const auto& [pattern, microseconds] : rows) {
    EXPECT_EQ(ReadSchemaPattern(pattern)->cost.compile_microseconds, microseconds) << pattern;
  }
}

// Of a, b and é.
std::string RandomPattern(std::mt19937& random, int depth) {
  constexpr const char* kAtoms[] = {"a", "b", "é", ".", "[ab]", "[^a]", "\\w", "\\W"};
  constexpr const char* kTimes[] = {"", "", "", "*", "+", "?", "{2}", "{1,3}", "{2,}", "{0,2}"};
  std::string pattern;
  for (uint32_t parts = random() % 4; parts > 0; --parts) {
    const bool is_group = depth > 0 && random() % 3 == 0;
    absl::StrAppend(&pattern,
                    is_group ? absl::StrCat("(", RandomPattern(random, depth - 1), ")")
                             : kAtoms[random() % std::size(kAtoms)],
                    kTimes[random() % std::size(kTimes)]);
  }
  if (random() % 3 == 0) absl::StrAppend(&pattern, "|", kAtoms[random() % std::size(kAtoms)]);
  return pattern;
}

TEST(JsonSchemaPatternTest, RandomOnesAreHeld) {
  constexpr int kPatterns = 150, kTexts = 25;
  constexpr const char* kCharacters[] = {"a", "b", "é", "-"};
  std::mt19937 random(1);
  int found = 0;
  for (int i = 0; i < kPatterns; ++i) {
    const std::string pattern = absl::StrCat("^(", RandomPattern(random, 2), ")$");
    if (ReadSchemaPattern(pattern)->cost.steps > SchemaQuotas().patterns.most) continue;
    const PatternSearch search(pattern);
    for (int j = 0; j < kTexts; ++j) {
      std::string text;
      for (uint32_t n = random() % 6; n > 0; --n) text += kCharacters[random() % 4];
      EXPECT_EQ(MayBe(pattern, text), search.Finds(text)) << pattern << "\n" << text;
      found += search.Finds(text) ? 1 : 0;
    }
  }
  EXPECT_GT(found, kPatterns * kTexts / 10);
}

}  // namespace
}  // namespace kvship
