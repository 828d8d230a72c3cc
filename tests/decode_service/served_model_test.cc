#include "decode_service/served_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/engine/model_files.h"

namespace kvship {
namespace {

using testing::HasSubstr;

TEST(ServedModel, ATokenBeforePromptsThatTheModelLacksIsRefused) {
  const TempFolder folder;
  std::filesystem::copy(KVSHIP_GOLDENS "/models/llama", folder.path());
  folder.Write("tokenizer.json", ReadBytes(KVSHIP_GOLDENS "/tokenizers/llama3/tokenizer.json"));
  EXPECT_THAT(std::string(ServedModel::Load(folder.path()).status().message()),
              HasSubstr("the tokenizer puts token 901 before a prompt; wanted one of the model's "
                        "320"));
}

TEST(ServedModel, HasWhatItsFolderHas) {
  const auto model = ServedModel::Load(KVSHIP_GOLDENS "/models/llama");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->tokenizer, nullptr);
  EXPECT_FALSE(model->chat_template.has_value());
  EXPECT_FALSE(model->why_no_chat_template.ok());
}

}  // namespace
}  // namespace kvship
