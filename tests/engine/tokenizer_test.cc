#include "engine/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>

namespace kvship {
namespace {

TEST(Tokenizer, GivesTheReferenceIdsOfTheDemoModel) {
  const auto begin = std::chrono::steady_clock::now();
  const auto tokenizer = Tokenizer::Load(KVSHIP_DEMO_MODEL);
  printf(
      "load %.1f ms\n",
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::ifstream file(KVSHIP_GOLDENS "/smollm2/tokenizer.json");
  const auto golden = nlohmann::json::parse(file);
  std::string all;
  for (const auto& c : golden["cases"]) {
    const std::string text = c["text"];
    EXPECT_EQ(*(*tokenizer)->Encode(text, false), c["ids"].get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(*(*tokenizer)->Encode(text, true), c["ids_with_special"].get<std::vector<int32_t>>())
        << text;
    all += text;
  }
  std::string mega;
  while (mega.size() < 1000000) mega += all;
  for (const std::string& t : {mega, std::string(1000000, 'a'), std::string(1000000, ' '),
                               std::string(1000000, '<'), std::string(1000000, '\n')}) {
    const auto begin = std::chrono::steady_clock::now();
    const auto ids = (*tokenizer)->Encode(t, true);
    printf(
        "encode %.1f ms %zu\n",
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count(),
        ids.ok() ? ids->size() : 0);
  }
}

}  // namespace
}  // namespace kvship
