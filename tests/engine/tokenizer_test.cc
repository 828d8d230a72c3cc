#include "engine/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace kvship {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return json::parse(file, nullptr, /*allow_exceptions=*/false);
}

// Holds a tokenizer against a file of texts and their ids.
void ExpectReferenceIds(const Tokenizer& tokenizer, const std::string& golden_path) {
  const json golden = ReadJson(golden_path);
  ASSERT_GE(golden["cases"].size(), 26u);
  for (const json& reference : golden["cases"]) {
    const auto text = reference["text"].get<std::string>();
    const auto ids = tokenizer.Encode(text, /*parse_special=*/false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, reference["ids"].get<Ids>()) << "text: " << text;
    const auto ids_with_special = tokenizer.Encode(text, /*parse_special=*/true);
    ASSERT_TRUE(ids_with_special.ok()) << ids_with_special.status();
    EXPECT_EQ(*ids_with_special, reference["ids_with_special"].get<Ids>()) << "text: " << text;
  }
}

TEST(TokenizerJson, GivesTheReferenceIdsOfDigitsAndByteLevel) {
  const auto tokenizer = Tokenizer::Load(KVSHIP_GOLDENS "/tokenizers/digits");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectReferenceIds(**tokenizer, KVSHIP_GOLDENS "/tokenizers/digits/ids.json");
  EXPECT_FALSE((*tokenizer)->adds_begin_token());
}

TEST(TokenizerJson, GivesTheReferenceIdsOfALlama3Style) {
  const auto tokenizer = Tokenizer::Load(KVSHIP_GOLDENS "/tokenizers/llama3");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectReferenceIds(**tokenizer, KVSHIP_GOLDENS "/tokenizers/llama3/ids.json");
  EXPECT_TRUE((*tokenizer)->adds_begin_token());
}

TEST(TokenizerJson, GivesTheReferenceIdsWithAnUnknownToken) {
  const auto tokenizer = Tokenizer::Load(KVSHIP_GOLDENS "/tokenizers/unknown");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectReferenceIds(**tokenizer, KVSHIP_GOLDENS "/tokenizers/unknown/ids.json");
}

}  // namespace
}  // namespace kvship
