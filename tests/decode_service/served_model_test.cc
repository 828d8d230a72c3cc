#include "decode_service/served_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "engine/byte_alphabet.h"
#include "tests/engine/chat_programs.h"
#include "tests/temp_folder.h"

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

// The golden model with a tokenizer of bytes and these added tokens, from 256 on.
void WriteModel(const TempFolder& folder,
                const std::vector<std::pair<std::string, bool>>& names_and_special) {
  std::filesystem::copy(KVSHIP_GOLDENS "/models/llama", folder.path());
  nlohmann::json vocabulary = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) vocabulary[ByteCharacter(byte)] = byte;
  nlohmann::json added = nlohmann::json::array();
  for (const auto& [name, is_special] : names_and_special) {
    added.push_back({{"id", 256 + added.size()}, {"content", name}, {"special", is_special}});
  }
  const nlohmann::json tokenizer = {
      {"added_tokens", added},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}}}};
  folder.Write("tokenizer.json", tokenizer.dump());
}

TEST(ServedModel, KnowsTheSpecialTokensInItsCalls) {
  const TempFolder folder;
  WriteModel(folder, {{"[ARGS]", true},
                      {"[TOOL_CALLS]", true},
                      {"[INST]", true},
                      {"[CALL_ID]", false},
                      {"</tool_call>", true},
                      {"<tool_call>", false}});
  const auto call_tokens = [&folder](const std::string& program) {
    folder.Write("chat_template.jinja", program);
    const auto model = ServedModel::Load(folder.path());
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? model->call_tokens : std::vector<int32_t>();
  };
  EXPECT_THAT(call_tokens(MistralProgram()), ElementsAre(257, 256));
  EXPECT_THAT(call_tokens(HermesProgram()), ElementsAre(260));
  EXPECT_THAT(call_tokens(Llama3Program()), IsEmpty());
}

TEST(ServedModel, KnowsTheSpecialTokensOfItsThoughtsAndTags) {
  const TempFolder folder;
  WriteModel(
      folder,
      {{"<think>", true}, {"</think>", true}, {"<tool_call>", true}, {"</tool_call>", true}});
  folder.Write("chat_template.jinja", HermesProgram());
  const auto model = ServedModel::Load(folder.path());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(model->thought_tokens, ElementsAre(256, 257));
  EXPECT_THAT(model->call_tokens, ElementsAre(258, 259));
  EXPECT_THAT(model->CallTokenNames(), ElementsAre("<tool_call>", "</tool_call>"));
}

}  // namespace
}  // namespace kvship
