#include "engine/normal_form.h"

#include <gtest/gtest.h>

#include "absl/strings/string_view.h"

namespace kvship {
namespace {

std::string Repeated(const std::string& text, size_t count) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += text;
  return out;
}

TEST(NormalFormC, WritesTheSameTextTheSameWay) {
  EXPECT_EQ(NormalFormC(""), "");
  EXPECT_EQ(NormalFormC(absl::string_view("plain\0text", 10)),
            absl::string_view("plain\0text", 10));
  EXPECT_EQ(NormalFormC("cafe\u0301"), "caf\u00e9");
  EXPECT_EQ(NormalFormC("\u212b"), "\u00c5");
  EXPECT_EQ(NormalFormC("q\u0307\u0323"), "q\u0323\u0307");  // marks in order, none composed
  EXPECT_EQ(NormalFormC("\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(NormalFormC("\ufb01 \U0001f642"), "\ufb01 \U0001f642");  // those are other texts
}

TEST(NormalFormC, PutsMarksWithoutEndInOrder) {
  // Above and below in turn: each has to pass all before it.
  constexpr size_t kTimes = 500'000;
  EXPECT_EQ(NormalFormC("q" + Repeated("\u0301\u0323", kTimes)),
            "q" + Repeated("\u0323", kTimes) + Repeated("\u0301", kTimes));
  // A vowel sign that is no mark by itself, and is made of two.
  EXPECT_EQ(NormalFormC(Repeated("\u0f73", kTimes)),
            Repeated("\u0f71", kTimes) + Repeated("\u0f72", kTimes));
}

}  // namespace
}  // namespace kvship
