#include "engine/json_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace kvship {
namespace {

using testing::HasSubstr;

TEST(JsonText, IsSpelledAsPythonDoes) {
  EXPECT_EQ(*PythonJson(R"( {"b":1,"a" :[ true,null , -0.50e+1],"é":{}, "e":[]} )"),
            R"({"b": 1, "a": [true, null, -0.50e+1], "é": {}, "e": []})");
  EXPECT_EQ(*PythonJson(R"({"\u00e9\/<":"\u0001\"\\\n\ud83d\ude00"})"),
            R"({"é/<": "\u0001\"\\\n😀"})");
  EXPECT_EQ(*PythonJson("{}"), "{}");
}

TEST(JsonText, WhatIsNoObjectIsRefused) {
  for (const char* text :
       {"", "[]", "7", "{", "{}}", "{\"a\"}", "{\"a\":1,}", "{\"a\":\"\xff\"}"}) {
    EXPECT_EQ(PythonJson(text).status().message(), "is no JSON object; wanted one") << text;
    EXPECT_FALSE(JsonMember(text, "a")) << text;
  }
  const auto nested = [](size_t depth) {
    return absl::StrCat("{\"a\":", std::string(depth - 1, '['), std::string(depth - 1, ']'), "}");
  };
  EXPECT_TRUE(PythonJson(nested(64)).ok());
  EXPECT_THAT(std::string(PythonJson(nested(65)).status().message()),
              HasSubstr("is nested deeper than 64"));
}

TEST(JsonText, AMemberIsAsItStandsThere) {
  const std::string object =
      R"({"name" : "f\"{", "n": 12345678901234567890123 , "o":{"a":[1, {"name":2}] },"l":[ ]})";
  EXPECT_EQ(JsonMember(object, "name"), R"("f\"{")");
  EXPECT_EQ(JsonMember(object, "n"), "12345678901234567890123");
  EXPECT_EQ(JsonMember(object, "o"), R"({"a":[1, {"name":2}] })");
  EXPECT_EQ(JsonMember(object, "l"), "[ ]");
  EXPECT_FALSE(JsonMember(object, "a"));
  EXPECT_FALSE(JsonMember("{}", "a"));
  EXPECT_EQ(JsonMember(R"({"\u0061":1})", "a"), "1");
}

TEST(JsonText, AValueEndsWhereItsBracketsDo) {
  EXPECT_EQ(JsonBytes(R"({"a":"}"}; {"b":1})"), 9u);
  EXPECT_EQ(JsonBytes(R"([[1],"\"]"])"), 11u);
  for (const char* text : {"{", "{\"a\":\"}", "[\"\\", ""}) EXPECT_EQ(JsonBytes(text), 0u) << text;
}

}  // namespace
}  // namespace kvship
