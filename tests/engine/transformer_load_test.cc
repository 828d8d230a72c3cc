#include <gtest/gtest.h>

#include <filesystem>

#include "engine/transformer.h"

namespace kvship {
namespace {

TEST(LoadTransformer, ReadsGoldens) {
  for (const char* name :
       {"llama", "llama3_rope", "llama_bf16_tied", "longchat_linear_rope", "mistral"}) {
    const auto t = LoadTransformer(std::string(KVSHIP_GOLDENS "/models/") + name);
    ASSERT_TRUE(t.ok()) << t.status();
  }
}
TEST(LoadTransformer, Demo) {
  const auto t = LoadTransformer(KVSHIP_DEMO_MODEL);
  ASSERT_TRUE(t.ok()) << t.status();
  printf("%s\n", HexString((*t)->identity).c_str());
}
}  // namespace
}  // namespace kvship
