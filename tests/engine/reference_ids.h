// What tests of tokenizers share: the reference results, and a tokenizer.json that a test changes.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/tokenizer.h"
#include "tests/temp_folder.h"

namespace kvship {

// Holds a tokenizer against a file of texts and their ids.
inline void ExpectReferenceIds(const Tokenizer& tokenizer, const std::string& golden_path) {
  const nlohmann::json golden = nlohmann::json::parse(ReadBytes(golden_path));
  ASSERT_GE(golden["cases"].size(), 26u);
  for (const nlohmann::json& reference : golden["cases"]) {
    const auto text = reference["text"].get<std::string>();
    const auto ids = tokenizer.Encode(text, /*parse_special=*/false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, reference["ids"].get<std::vector<int32_t>>()) << "text: " << text;
    const auto ids_with_special = tokenizer.Encode(text, /*parse_special=*/true);
    ASSERT_TRUE(ids_with_special.ok()) << ids_with_special.status();
    EXPECT_EQ(*ids_with_special, reference["ids_with_special"].get<std::vector<int32_t>>())
        << "text: " << text;
  }
}

// A tokenizer.json that a test changes.
class EditedTokenizer {
 public:
  explicit EditedTokenizer(const std::string& name)
      : content(nlohmann::json::parse(
            ReadBytes(KVSHIP_GOLDENS "/tokenizers/" + name + "/tokenizer.json"))) {}
  absl::StatusOr<std::unique_ptr<const Tokenizer>> Load() const {
    const TempFolder folder;
    folder.Write("tokenizer.json", content.dump());
    return Tokenizer::Load(folder.path());
  }
  void ExpectError(absl::StatusCode code, const std::string& words) const {
    const auto tokenizer = Load();
    EXPECT_EQ(tokenizer.status().code(), code) << tokenizer.status();
    EXPECT_THAT(std::string(tokenizer.status().message()), testing::HasSubstr(words));
  }

  nlohmann::json content;
};

}  // namespace kvship
