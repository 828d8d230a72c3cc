#include "engine/normal_form.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace kvship {
namespace {

using testing::HasSubstr;

std::string Repeated(const std::string& text, size_t count) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += text;
  return out;
}

TEST(NormalFormC, WritesTheSameTextTheSameWay) {
  EXPECT_EQ(*NormalFormC(""), "");
  EXPECT_EQ(*NormalFormC(absl::string_view("plain\0text", 10)),
            absl::string_view("plain\0text", 10));
  EXPECT_EQ(*NormalFormC("cafe\u0301"), "caf\u00e9");
  EXPECT_EQ(*NormalFormC("\u212b"), "\u00c5");
  EXPECT_EQ(*NormalFormC("q\u0307\u0323"), "q\u0323\u0307");  // marks in order, none composed
  EXPECT_EQ(*NormalFormC("\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(*NormalFormC("\ufb01 \U0001f642"), "\ufb01 \U0001f642");  // those are other texts
}

TEST(NormalFormC, RefusesMarksWithoutEnd) {
  // Above and below in turn: each has to pass all before it.
  const std::string above_below = "\u0301\u0323";
  EXPECT_TRUE(NormalFormC("a" + Repeated(above_below, 128)).ok());
  EXPECT_TRUE(NormalFormC(Repeated("a" + above_below, 100'000)).ok());
  const absl::Status many = NormalFormC("a" + Repeated(above_below, 500'000)).status();
  EXPECT_EQ(many.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(many.message()), HasSubstr("more than 256 combining marks in a row"));
  // A vowel sign that is no mark by itself, and is made of two.
  EXPECT_FALSE(NormalFormC(Repeated("\u0f73", 129)).ok());
}

}  // namespace
}  // namespace kvship
