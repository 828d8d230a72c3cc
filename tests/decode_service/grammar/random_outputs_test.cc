// Outputs drawn at random among the tokens that a schema's matcher allows: what ends is JSON that
// the schema allows, told by another reading of the schema than XGrammar's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/string_view.h"
#include "tests/decode_service/grammar/pattern_search.h"
#include "tests/decode_service/grammar/structure_walk.h"

namespace kvship {
namespace {

using json = nlohmann::ordered_json;

size_t Characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

// The keywords that schemas of this file have.
class Validator {
 public:
  explicit Validator(json root) : root_(std::move(root)) {}

  bool Allows(const json& value) const { return Allows(root_, value); }

 private:
  bool Allows(const json& schema, const json& value) const {
    if (schema.is_boolean()) return schema.get<bool>();
    const auto allows = [&](const json& each) { return Allows(each, value); };
    for (const auto& [name, of] : schema.items()) {
      if (name == "$ref") {
        const std::string path = of.get<std::string>().substr(1);
        if (!Allows(root_.at(json::json_pointer(path)), value)) return false;
      } else if (name == "const") {
        if (value != of) return false;
      } else if (name == "enum") {
        if (std::find(of.begin(), of.end(), value) == of.end()) return false;
      } else if (name == "anyOf") {
        if (std::none_of(of.begin(), of.end(), allows)) return false;
      } else if (name == "oneOf") {
        if (std::count_if(of.begin(), of.end(), allows) != 1) return false;
      } else if (name == "type") {
        const json types = of.is_array() ? of : json::array({of});
        const auto is = [&](const json& type) { return IsOf(type.get<std::string>(), value); };
        if (std::none_of(types.begin(), types.end(), is)) return false;
      }
    }
    if (value.is_number()) return AllowsNumber(schema, value.get<double>());
    if (value.is_string()) return AllowsString(schema, value.get<std::string>());
    if (value.is_array()) return AllowsArray(schema, value);
    return !value.is_object() || AllowsObject(schema, value);
  }

  static bool IsOf(const std::string& type, const json& value) {
    if (type == "integer") {
      return value.is_number() && std::trunc(value.get<double>()) == value.get<double>();
    }
    if (type == "number") return value.is_number();
    return type == value.type_name();
  }

  static bool AllowsNumber(const json& schema, double value) {
    return value >= schema.value("minimum", -HUGE_VAL) &&
           value <= schema.value("maximum", HUGE_VAL) &&
           (!schema.contains("exclusiveMinimum") || value > schema["exclusiveMinimum"]) &&
           (!schema.contains("exclusiveMaximum") || value < schema["exclusiveMaximum"]);
  }

  // In a shape 0 stands for a digit, f for a hexadecimal one.
  static bool HasShape(absl::string_view value, absl::string_view shape) {
    return std::equal(value.begin(), value.end(), shape.begin(), shape.end(), [](char c, char s) {
      return s == '0' ? absl::ascii_isdigit(c) : s == 'f' ? absl::ascii_isxdigit(c) : c == s;
    });
  }

  static bool IsOfFormat(const std::string& value, const std::string& format) {
    if (format == "uuid") return HasShape(value, "ffffffff-ffff-ffff-ffff-ffffffffffff");
    if (!HasShape(value, "0000-00-00")) return false;  // a date
    const int month = std::stoi(value.substr(5, 2)), day = std::stoi(value.substr(8));
    return month >= 1 && month <= 12 && day >= 1 && day <= 31;
  }

  static bool AllowsString(const json& schema, const std::string& value) {
    if (schema.contains("format") && !IsOfFormat(value, schema["format"])) return false;
    if (schema.contains("pattern") && !PatternSearch(schema["pattern"]).Finds(value)) return false;
    const size_t characters = Characters(value);
    return characters >= schema.value("minLength", size_t{0}) &&
           characters <= schema.value("maxLength", SIZE_MAX);
  }

  bool AllowsArray(const json& schema, const json& value) const {
    if (value.size() < schema.value("minItems", size_t{0})) return false;
    if (value.size() > schema.value("maxItems", SIZE_MAX)) return false;
    const json first = schema.value("prefixItems", json::array());
    for (size_t i = 0; i < value.size(); ++i) {
      const json of = i < first.size() ? first[i] : schema.value("items", json(true));
      if (!Allows(of, value[i])) return false;
    }
    return true;
  }

  // Named properties stand before others and in their order; others are only those asked for.
  bool AllowsObject(const json& schema, const json& value) const {
    const json properties = schema.value("properties", json::object());
    for (const json& name : schema.value("required", json::array())) {
      if (!value.contains(name.get<std::string>())) return false;
    }
    const json others = schema.value("additionalProperties", json(properties.empty()));
    auto next = properties.begin();
    for (const auto& member : value.items()) {
      const bool is_named = properties.contains(member.key());
      while (next != properties.end() && next.key() != member.key()) ++next;
      if (is_named && next == properties.end()) return false;
      if (!Allows(is_named ? properties[member.key()] : others, member.value())) return false;
    }
    return true;
  }

  const json root_;
};

// What XGrammar lets through that this parser of JSON does not, made what it does: exponents of
// more than a double has.
std::string Mended(std::string text) {
  if (json::accept(text)) return text;
  for (size_t i = 1; i + 1 < text.size(); ++i) {
    const bool is_exponent = (text[i] == 'e' || text[i] == 'E') && std::isdigit(text[i - 1]) != 0;
    for (size_t j = i + 1; is_exponent && j < text.size(); ++j) {
      if (std::isdigit(text[j]) != 0) {
        text[j] = '0';
      } else if (j > i + 1) {
        break;
      }
    }
  }
  return text;
}

struct Walk {
  std::vector<int32_t> tokens;
  std::string text;
  bool ended = false;
};

bool IsEnd(int32_t token) {
  return token == WalkedTokenizer::kEnd || token == WalkedTokenizer::kOtherEnd;
}

// Of those allowed: ends where it may end, as a rule, and after a while closes what is open.
int32_t Draw(std::span<const int32_t> allowed, size_t drawn, std::mt19937& random) {
  constexpr size_t kLong = 30;
  std::vector<int32_t> last;
  for (const int32_t token : allowed) {
    if (IsEnd(token) && random() % 2 == 0) return token;
    if (token == '"' || token == '}' || token == ']') last.push_back(token);
  }
  if (drawn > kLong && !last.empty() && random() % 4 != 0) return last[random() % last.size()];
  return allowed[random() % allowed.size()];
}

std::vector<int32_t> TokensOf(const TokenMask& mask) {
  std::vector<int32_t> tokens;
  for (size_t token = 0; token < WalkedTokenizer::kRows; ++token) {
    if (Allows(mask, token)) tokens.push_back(static_cast<int32_t>(token));
  }
  return tokens;
}

Walk RandomWalk(const std::string& structure, std::mt19937& random) {
  constexpr size_t kMostTokens = 300;
  const auto matcher = *TheGrammars().Match(structure);
  Walk walk;
  while (walk.tokens.size() < kMostTokens && !walk.ended) {
    const auto mask = matcher->Allowed();
    EXPECT_TRUE(mask.ok()) << mask.status() << " behind " << walk.text;
    const std::vector<int32_t> allowed = TokensOf(mask.value_or(TokenMask()));
    EXPECT_THAT(allowed, ::testing::Not(::testing::Contains(WalkedTokenizer::kSpecial)));
    EXPECT_LT(allowed.back(), static_cast<int32_t>(TheWalkedTokenizer().vocab_tokens()));
    const int32_t token = Draw(allowed, walk.tokens.size(), random);
    EXPECT_EQ(matcher->Accept(token), absl::OkStatus()) << token << " behind " << walk.text;
    walk.ended = IsEnd(token);
    walk.tokens.push_back(token);
    if (!walk.ended) absl::StrAppend(&walk.text, TheWalkedTokenizer().TokenBytes(token));
  }
  return walk;
}

// At a place on the walk each token is accepted that the mask allows, and no other; one that is
// refused changes nothing.
void ExpectMaskIsWhatIsAccepted(const std::string& structure, const Walk& walk,
                                std::mt19937& random) {
  const size_t place = random() % walk.tokens.size();
  const auto there = [&] {
    auto matcher = *TheGrammars().Match(structure);
    for (size_t i = 0; i < place; ++i) {
      EXPECT_EQ(matcher->Accept(walk.tokens[i]), absl::OkStatus());
    }
    return matcher;
  };
  const auto refuses = there();
  const TokenMask mask = *refuses->Allowed();
  for (int32_t token = 0; token < static_cast<int32_t>(WalkedTokenizer::kRows); ++token) {
    if (!Allows(mask, token)) {
      EXPECT_TRUE(absl::IsInvalidArgument(refuses->Accept(token))) << token;
    } else if (random() % 8 == 0) {
      EXPECT_EQ(there()->Accept(token), absl::OkStatus()) << token;
    }
  }
  EXPECT_EQ(*refuses->Allowed(), mask);
}

constexpr const char* kSchemas[] = {
    "{}",
    R"({"type": "object"})",
    R"({"type": ["string", "null", "boolean"]})",
    R"({"type": "number"})",
    R"({"type": "integer", "minimum": -17, "maximum": 4200})",
    R"({"type": "integer", "exclusiveMinimum": -1050, "exclusiveMaximum": -7})",
    R"({"type": "integer", "minimum": 95})",
    R"({"type": "number", "minimum": -1.25, "exclusiveMaximum": 30.5})",
    R"({"type": "number", "exclusiveMinimum": 0, "maximum": 0.01})",
    R"({"type": "string", "minLength": 2, "maxLength": 5})",
    R"({"type": "string", "minLength": 3})",
    R"({"type": "string", "format": "date"})",
    R"({"type": "string", "format": "uuid"})",
    R"({"type": "string", "pattern": "^[a-c]{2,4}(-\\d+)?$"})",
    R"({"type": ["null", "string"], "pattern": "^[^a-z]*$|^abc"})",
    R"({"properties": {"a": {"type": "string", "pattern": "^.{2,120}$"}}, "required": ["a"]})",
    R"({"type": "array", "items": {"type": "string", "maxLength": 2}, "minItems": 2,
        "maxItems": 4})",
    R"({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "minItems": 1,
        "items": {"type": "boolean"}})",
    R"({"type": "array", "prefixItems": [{"type": "null"}, {}], "items": false})",
    R"({"enum": ["a", "ab", "name\"\n", 1, 12, 1.25, null, {"a": [1]}, []]})",
    R"({"properties": {"name": {"type": "string"}, "a": {"type": "integer"}, "b": {}}})",
    R"({"properties": {"a": {"const": 1}, "b": {"type": "null"}, "c": {"type": "boolean"}},
        "required": ["b"]})",
    R"({"properties": {"name": {"type": "integer"}, "named": {"type": "null"}},
        "additionalProperties": false})",
    R"({"type": "object", "additionalProperties": {"type": "array", "items": {"type": "null"}}})",
    R"({"anyOf": [{"type": "integer", "minimum": 100}, {"type": "string", "maxLength": 1},
        {"properties": {"a": {"type": "null"}}, "required": ["a"]}]})",
    R"({"oneOf": [{"properties": {"kind": {"const": "a"}, "v": {"type": "integer"}},
                   "required": ["kind", "v"]},
                  {"properties": {"kind": {"const": "b"}}, "required": ["kind"]}]})",
    R"({"$defs": {"tree": {"properties": {"v": {"type": "boolean"}, "of": {"type": "array",
        "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}}, "required": ["v"]}},
        "$ref": "#/$defs/tree"})",
};

TEST(RandomOutputsTest, TheOtherReaderTellsWhatIsWrong) {
  constexpr std::pair<const char*, const char*> wrong[] = {
      {R"({"type": "integer"})", "1.5"},
      {R"({"type": ["null", "object"]})", "[]"},
      {R"({"type": "number", "minimum": 1, "exclusiveMaximum": 2})", "2"},
      {R"({"type": "string", "maxLength": 1})", R"("\u00e9x")"},
      {R"({"type": "string", "format": "date"})", R"("2024-13-01")"},
      {R"({"type": "string", "pattern": "^a+$"})", R"("ab")"},
      {R"({"items": {"type": "null"}, "maxItems": 1})", "[null, null]"},
      {R"({"prefixItems": [{}, {"type": "null"}]})", "[1, 2]"},
      {R"({"properties": {"a": {}, "b": {}}})", R"({"b": 1, "a": 2})"},
      {R"({"properties": {"a": {}}})", R"({"b": 1})"},
      {R"({"properties": {"a": {}}, "required": ["a"]})", "{}"},
      {R"({"additionalProperties": {"type": "null"}})", R"({"b": 1})"},
      {R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})", "1"},
      {R"({"anyOf": [{"const": 1}, {"enum": ["a"]}]})", R"("b")"},
      {R"({"$defs": {"a": {"type": "null"}}, "$ref": "#/$defs/a"})", "1"},
  };
  for (const auto& [schema, value] : wrong) {
    EXPECT_FALSE(Validator(json::parse(schema)).Allows(json::parse(value))) << schema;
  }
}

TEST(RandomOutputsTest, WhatEndsIsAllowedByItsSchema) {
  constexpr size_t kWalks = 200;
  for (const char* schema : kSchemas) {
    const auto structure = StructureOf(schema);
    ASSERT_TRUE(structure.ok()) << structure.status();
    const Validator validator(json::parse(schema));
    std::mt19937 random(1);
    size_t ended = 0;
    for (size_t i = 0; i < kWalks; ++i) {
      const Walk walk = RandomWalk(*structure, random);
      if (i % 20 == 0) ExpectMaskIsWhatIsAccepted(*structure, walk, random);
      if (!walk.ended) continue;
      ++ended;
      const std::string text = Mended(walk.text);
      const json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
      EXPECT_FALSE(value.is_discarded()) << schema << "\n" << absl::CHexEscape(walk.text);
      EXPECT_TRUE(validator.Allows(value)) << schema << "\n" << absl::CHexEscape(walk.text);
    }
    EXPECT_GT(ended, kWalks / 2) << schema;
  }
}

}  // namespace
}  // namespace kvship
