#include "engine/model_config.h"

#include <gtest/gtest.h>

#include <string>

#include "engine/hf_config.h"

namespace kvship {
namespace {

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

}  // namespace
}  // namespace kvship
