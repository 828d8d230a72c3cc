#include "decode_service/output_text.h"

#include <gtest/gtest.h>

#include <random>

namespace kvship {
namespace {

// The text that comes out of `bytes` cut into pieces of the given lengths, over and over.
std::string TextOf(absl::string_view bytes, std::vector<std::string> stop,
                   std::vector<size_t> lengths) {
  OutputText output(std::move(stop));
  std::string text;
  for (size_t i = 0; !bytes.empty() && !output.stopped(); ++i) {
    const size_t n = std::min(bytes.size(), lengths[i % lengths.size()]);
    text += output.Add(bytes.substr(0, n));
    bytes.remove_prefix(n);
  }
  return text + output.Finish();
}

TEST(OutputTextTest, CharactersAreNeverCut) {
  OutputText output({});
  EXPECT_EQ(output.Add("a\xe2"), "a");
  EXPECT_EQ(output.Add("\x82"), "");
  EXPECT_EQ(output.Add("\xac!"), "\u20ac!");
  EXPECT_EQ(output.Add("\xf0\x9f\x98"), "");
  EXPECT_EQ(output.Add("\x80"), "\U0001f600");
  EXPECT_EQ(output.Finish(), "");
}

TEST(OutputTextTest, UnfinishedCharacterAtTheEndBecomesOneReplacement) {
  EXPECT_EQ(TextOf("x\xf0\x9f\x98", {}, {1}), "x\ufffd");
}

TEST(OutputTextTest, InvalidBytesBecomeReplacementsBySubpart) {
  // Each row: bytes, and the text that table 3-8 of the Unicode standard gives for such.
  const std::pair<std::string, std::string> rows[] = {
      {"\xc0\xaf", "\ufffd\ufffd"},                      // an overlong form
      {"\xe0\x80\xaf", "\ufffd\ufffd\ufffd"},            // an overlong form of three bytes
      {"\xed\xa0\x80", "\ufffd\ufffd\ufffd"},            // a surrogate
      {"\xf4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd"},  // beyond U+10FFFF
      {"\xff", "\ufffd"},
      {"\x80", "\ufffd"},
      {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", "\ufffd\ufffd\ufffd\ufffd\x41"},
  };
  for (const auto& [bytes, text] : rows) {
    for (size_t n : {1, 2, 3, 100}) EXPECT_EQ(TextOf(bytes, {}, {n}), text);
  }
}

TEST(OutputTextTest, StopTextIsRemovedWithWhatFollows) {
  EXPECT_EQ(TextOf("one two three", {"two"}, {100}), "one ");
  EXPECT_EQ(TextOf("one two three", {"two"}, {1}), "one ");
}

TEST(OutputTextTest, TextThatMayBecomeAStopTextIsHeldBack) {
  OutputText output({"</end>"});
  EXPECT_EQ(output.Add("a <"), "a ");
  EXPECT_EQ(output.Add("/en"), "");
  EXPECT_EQ(output.Add("emy"), "</enemy");
  EXPECT_EQ(output.Add("</"), "");
  EXPECT_EQ(output.Finish(), "</");
  EXPECT_FALSE(output.stopped());
}

TEST(OutputTextTest, HeldTextThatRepeatsTheBeginningIsFound) {
  EXPECT_EQ(TextOf("aaab!", {"aab"}, {1}), "a");
  EXPECT_EQ(TextOf("ababac", {"abac"}, {1}), "ab");
}

TEST(OutputTextTest, StopTextThatEndsFirstWinsAndOfThoseTheLongest) {
  EXPECT_EQ(TextOf("xabcdy", {"abcd", "bc"}, {1}), "xa");
  EXPECT_EQ(TextOf("xabcdy", {"abcd", "bc"}, {100}), "xa");
  EXPECT_EQ(TextOf("xabcdy", {"cd", "bcd"}, {100}), "xa");
}

TEST(OutputTextTest, StopTextInsideACharacterSequenceWorksOnCharacters) {
  EXPECT_EQ(TextOf("5 \u20ac net", {"\u20ac"}, {1}), "5 ");
}

TEST(OutputTextTest, HowBytesAreCutChangesNothing) {
  std::mt19937 random(7);
  const std::string alphabet = "aab\xe2\x82\xac\xf0";
  for (int trial = 0; trial < 500; ++trial) {
    std::string bytes;
    for (size_t i = 0; i < 40; ++i) bytes += alphabet[random() % alphabet.size()];
    const std::vector<std::string> stop = {"aaba", "\u20aca", "abab"};
    const std::string whole = TextOf(bytes, stop, {bytes.size()});
    EXPECT_EQ(TextOf(bytes, stop, {1}), whole);
    EXPECT_EQ(TextOf(bytes, stop, {1 + random() % 5, 1 + random() % 3}), whole);
  }
}

TEST(OutputTextTest, WhereNoStopTextMayEndOneMayBegin) {
  OutputText output({"abc", "ab"});
  EXPECT_EQ(output.Add("xabcab", false), "xabc");
  EXPECT_EQ(output.Add("!a", false), "ab!");
  EXPECT_EQ(output.Add("b"), "");
  EXPECT_TRUE(output.stopped());
  EXPECT_EQ(output.Finish(), "");
}

TEST(OutputTextTest, AStopTextThatHasPassedIsNotFoundLater) {
  OutputText output({"ab", "abcd"});
  EXPECT_EQ(output.Add("ab", false), "");
  EXPECT_EQ(output.Add("cx"), "abcx");
  EXPECT_EQ(output.Add("ab", false), "");
  EXPECT_EQ(output.Add("c"), "");
  EXPECT_EQ(output.Add("d"), "");
  EXPECT_TRUE(output.stopped());
}

TEST(OutputTextTest, HowBytesAreCutAfterThePassedOnesChangesNothing) {
  std::mt19937 random(3);
  const std::vector<std::string> stop = {"aab", "ba", "abba"};
  for (int trial = 0; trial < 500; ++trial) {
    std::string bytes;
    for (size_t i = 0; i < 30; ++i) bytes += "aab"[random() % 3];
    const size_t passed = random() % 20;
    // The first that ends past them.
    std::string expected = bytes;
    for (size_t end = passed + 1; end <= bytes.size() && expected == bytes; ++end) {
      for (const std::string& text : {stop[2], stop[0], stop[1]}) {
        if (end < text.size() || bytes.compare(end - text.size(), text.size(), text) != 0) continue;
        expected = bytes.substr(0, end - text.size());
        break;
      }
    }
    for (const size_t piece : {1, 3, 30}) {
      OutputText output(stop);
      std::string text;
      for (size_t at = 0; at < bytes.size() && !output.stopped();) {
        const size_t size = std::min(piece, (at < passed ? passed : bytes.size()) - at);
        text += output.Add(bytes.substr(at, size), at >= passed);
        at += size;
      }
      text += output.Finish();
      // What has been sent cannot be taken back.
      EXPECT_EQ(text, expected) << bytes << " " << passed << " " << piece;
    }
  }
}

}  // namespace
}  // namespace kvship
