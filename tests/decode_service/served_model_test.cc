#include "decode_service/served_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/byte_alphabet.h"
#include "tests/engine/chat_programs.h"
#include "tests/engine/model_files.h"

namespace kvship {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

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
}

TEST(ServedModel, KnowsTheSpecialTokensInItsCalls) {
  const TempFolder folder;
  std::filesystem::copy(KVSHIP_GOLDENS "/models/llama", folder.path());
  nlohmann::json vocabulary = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) vocabulary[ByteCharacter(byte)] = byte;
  const auto added = [](int id, const char* name, bool special) {
    return nlohmann::json{{"id", id}, {"content", name}, {"special", special}};
  };
  const nlohmann::json tokenizer = {
      {"added_tokens",
       {added(256, "[ARGS]", true), added(257, "[TOOL_CALLS]", true), added(258, "[INST]", true),
        added(259, "[CALL_ID]", false)}},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}}}};
  folder.Write("tokenizer.json", tokenizer.dump());
  const auto call_tokens = [&folder](const std::string& program) {
    folder.Write("chat_template.jinja", program);
    const auto model = ServedModel::Load(folder.path());
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? model->call_tokens : std::vector<int32_t>();
  };
  EXPECT_THAT(call_tokens(MistralProgram()), ElementsAre(257, 256));
  EXPECT_THAT(call_tokens(HermesProgram()), IsEmpty());
}

}  // namespace
}  // namespace kvship
