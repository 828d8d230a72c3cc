#include "decode_service/served_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/engine/model_files.h"

namespace kvship {
namespace {

using testing::HasSubstr;

TEST(ServedModel, FilesThatNameTwoBeginTokensAreRefused) {
  const TempFolder folder;
  std::filesystem::copy(KVSHIP_GOLDENS "/models/llama", folder.path());
  folder.Write("tokenizer.json", ReadBytes(KVSHIP_GOLDENS "/tokenizers/llama3/tokenizer.json"));
  auto config = nlohmann::json::parse(ReadBytes(folder.path() + "/config.json"));
  const auto message = [&] {
    folder.Write("config.json", config.dump());
    return std::string(ServedModel::Load(folder.path()).status().message());
  };
  EXPECT_THAT(message(), HasSubstr("the tokenizer puts token 901 before a prompt; wanted the "
                                   "configuration's bos_token_id, 1"));
  config["bos_token_id"] = nullptr;
  EXPECT_THAT(message(), HasSubstr("bos_token_id, which is missing"));
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
