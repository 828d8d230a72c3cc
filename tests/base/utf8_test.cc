#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace kvship {
namespace {

TEST(ValidUtf8Bytes, EndAtTheFirstThatIsNot) {
  EXPECT_EQ(ValidUtf8Bytes("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"), 10u);
  for (const char* bad : {"\x80", "\xc0\xaf", "\xc3", "\xe0\x80\xaf", "\xed\xa0\x80", "\xe2\x82",
                          "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80"}) {
    EXPECT_EQ(ValidUtf8Bytes(std::string("12345678ab") + bad), 10u);
  }
}

TEST(ReplaceInvalidUtf8, PutsOneCharacterInThePlaceOfEachPart) {
  EXPECT_EQ(ReplaceInvalidUtf8("a\xff\u00e9\xe2\x82"), "a\ufffd\u00e9\ufffd");
  EXPECT_EQ(ReplaceInvalidUtf8(""), "");
}

TEST(StripWhitespace, DropsWhatPythonsStripDrops) {
  EXPECT_EQ(StripWhitespace(" \t\r\n\v\f\x1c\x1f\u0085\u00a0\u1680\u2000\u200a "
                            "a\u2003b\u2028\u2029\u202f\u205f\u3000"),
            "a\u2003b");
  EXPECT_EQ(StripWhitespace("\u3000 \n"), "");
  EXPECT_EQ(StripWhitespace(""), "");
  // Zero width, and a vowel separator, are none; nor is a part of a character.
  EXPECT_EQ(StripWhitespace("\u200b\u180e\u3001"), "\u200b\u180e\u3001");
}

TEST(FirstCharacter, IsWholeUnfinishedOrInvalid) {
  const auto expect = [](const char* bytes, size_t num_bytes, Utf8Prefix::Kind kind) {
    const Utf8Prefix prefix = FirstCharacter(bytes);
    EXPECT_EQ(prefix.num_bytes, num_bytes) << bytes;
    EXPECT_EQ(prefix.kind, kind) << bytes;
  };
  expect("ab", 1, Utf8Prefix::kWhole);
  expect("\xf0\x9f\x98\x80 ", 4, Utf8Prefix::kWhole);
  expect("\xf0\x9f\x98", 3, Utf8Prefix::kUnfinished);
  expect("\xf0\x9fx", 2, Utf8Prefix::kInvalid);
  expect("\x80\x80", 1, Utf8Prefix::kInvalid);
  expect("\xed\xa0\x80", 1, Utf8Prefix::kInvalid);
}

}  // namespace
}  // namespace kvship
