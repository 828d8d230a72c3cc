#include "engine/model_config.h"

#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "engine/hf_config.h"
#include "tests/engine/edited_model.h"

namespace kvship {
namespace {

using nlohmann::json;

ModelConfig WithHeads(size_t head_dim) {
  ModelConfig config;
  config.num_layers = 2;
  config.hidden_dim = 64;
  config.num_query_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = head_dim;
  config.ffn_dim = 128;
  config.vocab_tokens = 320;
  config.context_tokens = 2048;
  config.norm_epsilon = 1e-5F;
  config.rope_frequencies.assign(head_dim / 2, 1.0);
  return config;
}

TEST(ModelConfig, HeadsThatDecodingCannotReadAreRefused) {
  for (const size_t head_dim : {16, 48, 64, 80, 128, 256}) {
    EXPECT_EQ(WithHeads(head_dim).Validate(), absl::OkStatus());
  }
  // 100 is the head size of OpenLLaMA 3B.
  for (const size_t head_dim : {2, 20, 24, 100, 127}) {
    EXPECT_EQ(WithHeads(head_dim).Validate(),
              absl::InvalidArgumentError("head_dim is " + std::to_string(head_dim) +
                                         "; wanted a multiple of 16"));
  }
}

TEST(ModelConfig, IsNamedByItsFolderHoweverThatIsWritten) {
  for (const char* written : {"llama/", "llama/.", "llama//", "mistral/../llama/"}) {
    const auto config = ReadHfConfig(std::string(KVSHIP_GOLDENS "/models/") + written);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->model.name, "llama") << written;
  }
}

// Those of transformers' configurations, which differ by architecture.
TEST(ModelConfig, MissingFieldsHaveTheirArchitecturesDefaults) {
  for (const auto& [name, epsilon, theta] : {std::tuple{"mixtral", 1e-5F, 1e6},
                                             {"llama", 1e-6F, 1e4},
                                             {"mistral", 1e-6F, 1e4},
                                             {"qwen2", 1e-6F, 1e4}}) {
    EditedModel model(name);
    for (const char* field : {"rms_norm_eps", "rope_parameters"}) model.config.erase(field);
    model.Write();
    const auto missing = ReadHfConfig(model.folder().path());
    ASSERT_TRUE(missing.ok()) << missing.status();
    EXPECT_EQ(missing->model.norm_epsilon, epsilon) << name;
    model.config["rope_theta"] = theta;
    model.Write();
    const auto stated = ReadHfConfig(model.folder().path());
    ASSERT_TRUE(stated.ok()) << stated.status();
    EXPECT_EQ(missing->model.rope_frequencies, stated->model.rope_frequencies) << name;
  }
}

TEST(ModelConfig, AMissingWindowIsOneUnlessItIsNull) {
  const auto read = [](const char* name, bool is_missing, const json& uses_window) {
    EditedModel model(name);
    model.config["sliding_window"] = nullptr;
    if (is_missing) model.config.erase("sliding_window");
    model.config["use_sliding_window"] = uses_window;
    model.config["max_position_embeddings"] = 4097;
    model.Write();
    return ReadHfConfig(model.folder().path()).status();
  };
  const json absent;
  for (const char* name : {"mistral", "mixtral", "qwen2", "qwen3", "qwen3moe", "llama"}) {
    EXPECT_EQ(read(name, /*is_missing=*/false, true), absl::OkStatus()) << name;
    const bool has_none = name != std::string("mistral");
    EXPECT_EQ(read(name, /*is_missing=*/true, absent).ok(), has_none) << name;
    EXPECT_EQ(read(name, /*is_missing=*/true, false).ok(), has_none) << name;
    const absl::Status used = read(name, /*is_missing=*/true, true);
    if (name == std::string("mixtral") || name == std::string("llama")) {
      EXPECT_EQ(used, absl::OkStatus()) << name;
    } else {
      EXPECT_EQ(used.code(), kUnimplemented) << name;
      EXPECT_THAT(std::string(used.message()),
                  testing::HasSubstr("sliding_window is missing, which is 4096; wanted null"));
    }
  }
  EditedModel short_one("mistral");
  short_one.config.erase("sliding_window");
  EXPECT_TRUE(short_one.Load().ok());
}

TEST(ModelConfig, QwensUseAWindowOnlyWhereTheySaySo) {
  EditedModel model("qwen2");
  model.config["sliding_window"] = 128;
  model.config.erase("use_sliding_window");
  EXPECT_TRUE(model.Load().ok());
  model.config["use_sliding_window"] = true;
  model.ExpectError(kUnimplemented, "sliding_window is 128");
}

}  // namespace
}  // namespace kvship
