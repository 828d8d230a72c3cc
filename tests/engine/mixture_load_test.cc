// Checkpoints of mixtures of experts.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/prefill.h"
#include "tests/engine/edited_model.h"
#include "tests/engine/mixture_gguf.h"
#include "tests/engine/read_all.h"

namespace kvship {
namespace {

using nlohmann::json;
using Experts = MixtureGguf::Experts;

std::vector<float> Logits(const Transformer& model) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 70; ++i) tokens.push_back(i * 37 % 320);
  Backend backend(2);
  PrefillEngine engine(model, backend, {.block_tokens = 32});
  const std::vector<float> all = ReadAll(engine, {{tokens}})[0];
  return {all.end() - static_cast<ptrdiff_t>(model.config.vocab_tokens), all.end()};
}

TEST(LoadMixture, ReadsMixtral) {
  const auto model = LoadTransformer(Golden("mixtral"));
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelConfig& config = (*model)->config;
  EXPECT_EQ(config.architecture, "mixtral");
  EXPECT_EQ(config.num_experts, 4u);
  EXPECT_EQ(config.experts_per_token, 2u);
  EXPECT_TRUE(config.normalizes_expert_weights);
  EXPECT_EQ(config.ffn_dim, 128u);
  const LayerWeights& layer = (*model)->layers[1];
  EXPECT_EQ(layer.router.rows, 4u);
  ASSERT_EQ(layer.experts.size(), 4u);
  EXPECT_EQ(layer.experts[3].up.rows, 128u);
  EXPECT_EQ(layer.experts[3].down.rows, 64u);
}

TEST(LoadMixture, ReadsQwen3Moe) {
  const auto model = LoadTransformer(Golden("qwen3moe"));
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelConfig& config = (*model)->config;
  EXPECT_EQ(config.architecture, "qwen3moe");
  EXPECT_EQ(config.num_experts, 8u);
  EXPECT_EQ(config.experts_per_token, 2u);
  EXPECT_EQ(config.ffn_dim, 96u);
  EXPECT_EQ((*model)->layers[1].key_norm.size(), 32u);
  EXPECT_EQ((*model)->layers[1].experts[7].gate.rows, 96u);
}

TEST(LoadMixture, TakesTheNumberOfQwensExpertsUnderBothNames) {
  EditedModel model("qwen3moe");
  model.config["num_experts"] = model.config["num_local_experts"];
  model.config.erase("num_local_experts");
  const auto loaded = model.Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->config.num_experts, 8u);
}

TEST(LoadMixture, GgufFilesGiveTheSameLogits) {
  for (const char* name : {"mixtral", "qwen3moe"}) {
    const std::vector<float> wanted = Logits(**LoadTransformer(Golden(name)));
    for (const Experts experts : {Experts::kStacked, Experts::kFused, Experts::kSingle}) {
      const auto model = MixtureGguf(name, experts).Load();
      ASSERT_NE(model, nullptr);
      const std::vector<float> logits = Logits(*model);
      ASSERT_EQ(logits.size(), wanted.size());
      for (size_t i = 0; i < logits.size(); ++i) {
        ASSERT_NEAR(logits[i], wanted[i], 1e-4) << name << ", token " << i;
      }
    }
  }
}

TEST(LoadMixture, GgufFilesOfBlocksGiveAboutTheSameLogits) {
  for (const char* name : {"mixtral", "qwen3moe"}) {
    const std::vector<float> wanted = Logits(**LoadTransformer(Golden(name)));
    const std::vector<float> logits =
        Logits(*MixtureGguf(name, Experts::kStacked, kGgufQ8_0).Load());
    EXPECT_EQ(Logits(*MixtureGguf(name, Experts::kFused, kGgufQ8_0).Load()), logits);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      difference += std::pow(double{logits[i]} - wanted[i], 2);
      norm += std::pow(double{wanted[i]}, 2);
    }
    // A rounded activation sends a row to another expert now and then.
    EXPECT_LT(std::sqrt(difference / norm), 0.2) << name;
  }
}

TEST(LoadMixture, NamesFieldsThatAreMissingOrCannotBe) {
  for (const auto& [name, field, value, words] :
       std::vector<std::tuple<const char*, const char*, json, const char*>>{
           {"mixtral", "num_local_experts", nullptr, "num_local_experts is missing"},
           {"mixtral", "num_local_experts", 0, "num_local_experts is 0; wanted at least 1"},
           {"mixtral", "num_local_experts", 1025, "num_experts is 1025; wanted 1 to 1024"},
           {"mixtral", "num_experts_per_tok", nullptr, "num_experts_per_tok is missing"},
           {"mixtral", "num_experts_per_tok", 0, "experts_per_token is 0; wanted 1 to 4"},
           {"mixtral", "num_experts_per_tok", 5, "experts_per_token is 5; wanted 1 to 4"},
           {"mixtral", "num_local_experts", 5,
            "tensor model.layers.0.block_sparse_moe.gate.weight has shape [4, 64]; the "
            "configuration wants [5, 64]"},
           {"qwen3moe", "moe_intermediate_size", nullptr, "moe_intermediate_size is missing"},
           {"qwen3moe", "norm_topk_prob", "yes", "norm_topk_prob"},
           {"qwen3moe", "mlp_only_layers", 1, "mlp_only_layers is not a list"},
           {"qwen3moe", "moe_intermediate_size", 64, "has shape [96, 64]"}}) {
    EditedModel model(name);
    model.config[field] = value;
    SCOPED_TRACE(words);
    model.ExpectError(kInvalid, words);
  }
}

TEST(LoadMixture, RefusesDenseLayersAmongMixtures) {
  EditedModel sparse("qwen3moe");
  sparse.config["decoder_sparse_step"] = 2;
  sparse.ExpectError(kUnimplemented, "decoder_sparse_step is 2; wanted 1");
  EditedModel listed("qwen3moe");
  listed.config["mlp_only_layers"] = {0};
  listed.ExpectError(kUnimplemented, "mlp_only_layers is a list of 1; wanted an empty one");
}

TEST(LoadMixture, RefusesOptionsOfOtherMixturesInGgufFiles) {
  for (const auto& [name, number, words] : std::vector<std::tuple<const char*, float, const char*>>{
           {"expert_gating_func", 2, "expert_gating_func is 2; wanted 1"},
           {"expert_weights_scale", 2.5f, "expert_weights_scale is 2.5; wanted 1"},
           {"expert_shared_count", 1, "expert_shared_count is 1; wanted 0"},
           {"expert_shared_feed_forward_length", 64, "length is 64; wanted 0"},
           {"expert_group_count", 4, "expert_group_count is 4; wanted 1"},
           {"leading_dense_block_count", 1, "leading_dense_block_count is 1; wanted 0"},
           {"interleave_moe_layer_step", 2, "interleave_moe_layer_step is 2; wanted 1"},
           {"moe_every_n_layers", 2, "moe_every_n_layers is 2; wanted 1"}}) {
    for (const char* model : {"mixtral", "qwen3moe"}) {
      MixtureGguf file(model);
      file.gguf().Number(file.architecture() + "." + name, number);
      ExpectGgufError(file.gguf(), kUnimplemented, words);
    }
  }
  MixtureGguf shares("qwen3moe");
  shares.gguf().Value("qwen3moe.expert_weights_norm", kGgufBool, std::string(1, '\0'));
  ExpectGgufError(shares.gguf(), kUnimplemented, "expert_weights_norm is false; wanted true");
}

TEST(LoadMixture, TakesOptionsThatSayWhatItDoes) {
  MixtureGguf file("qwen3moe");
  file.gguf()
      .Count("qwen3moe.expert_gating_func", 1)
      .Number("qwen3moe.expert_weights_scale", 1)
      .Count("qwen3moe.expert_shared_count", 0)
      .Value("qwen3moe.expert_weights_norm", kGgufBool, std::string(1, '\1'));
  EXPECT_NE(file.Load(), nullptr);
}

TEST(LoadMixture, NamesWhatAGgufFileLacks) {
  ExpectGgufError(TinyGguf().Count("llama.expert_count", 8), kInvalid,
                  "llama.expert_used_count is missing");
  ExpectGgufError(TinyGguf().Count("llama.expert_count", 8).Count("llama.expert_used_count", 9),
                  kInvalid, "experts_per_token is 9; wanted 1 to 8");
  ExpectGgufError(TinyGguf().Count("llama.expert_count", 8).Count("llama.expert_used_count", 2),
                  kInvalid, "tensor blk.0.ffn_gate_inp.weight is missing");
  ExpectGgufError(TinyGguf(false, "qwen3moe"), kInvalid, "qwen3moe.expert_count is missing");
  ExpectGgufError(TinyGguf(false, "qwen3moe").Count("qwen3moe.expert_count", 0), kInvalid,
                  "qwen3moe.expert_count is 0; wanted at least 1");
  ExpectGgufError(TinyGguf(false, "qwen3moe")
                      .Count("qwen3moe.expert_count", 8)
                      .Count("qwen3moe.expert_used_count", 2),
                  kInvalid, "qwen3moe.expert_feed_forward_length is missing");
  ExpectGgufError(TinyGguf(false, "qwen2").Count("qwen2.expert_count", 8), kUnimplemented,
                  "qwen2.expert_count is 8; wanted a qwen2 model without experts");
}

TEST(LoadMixture, GivesAnIdentityThatFollowsHowExpertsAreChosen) {
  EditedModel model("qwen3moe");
  const Sha256Digest as_it_is = (*model.Load())->identity;
  EXPECT_EQ((*model.Load())->identity, as_it_is);
  model.config["norm_topk_prob"] = false;
  EXPECT_NE((*model.Load())->identity, as_it_is);
  model.config["norm_topk_prob"] = true;
  model.config["num_experts_per_tok"] = 3;
  EXPECT_NE((*model.Load())->identity, as_it_is);
}

}  // namespace
}  // namespace kvship
