#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/float16.h"
#include "engine/transformer.h"
#include "tests/engine/edited_model.h"
#include "tests/engine/model_files.h"
#include "tests/needed.h"

namespace kvship {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(LoadTransformer, ReadsTheModelsOfTheReferenceResults) {
  for (const char* name : {"llama", "llama3_rope", "longchat_linear_rope", "mistral"}) {
    const auto model = LoadTransformer(Golden(name));
    ASSERT_TRUE(model.ok()) << model.status();
    const ModelConfig& config = (*model)->config;
    EXPECT_EQ(config.architecture, std::string(name) == "mistral" ? "mistral" : "llama");
    EXPECT_EQ(config.name, name);
    EXPECT_EQ(config.num_layers, 2u);
    EXPECT_EQ(config.hidden_dim, 64u);
    EXPECT_EQ(config.num_query_heads, 4u);
    EXPECT_EQ(config.num_kv_heads, std::string(name) == "longchat_linear_rope" ? 4u : 2u);
    EXPECT_EQ(config.head_dim, 16u);
    EXPECT_EQ(config.ffn_dim, 128u);
    EXPECT_EQ(config.vocab_tokens, 320u);
    EXPECT_EQ(config.context_tokens, 2048u);
    EXPECT_EQ(config.norm_epsilon, 1e-5f);
    EXPECT_EQ(config.rope_pairs, RopePairs::kHalves);
    EXPECT_THAT(config.end_tokens, ElementsAre(2));
    EXPECT_EQ(config.begin_token, 1);
    ASSERT_EQ((*model)->layers.size(), 2u);
    EXPECT_EQ((*model)->layers[1].experts[0].down.cols, 128u);
    EXPECT_NE((*model)->output.data, (*model)->embedding.data);
    EXPECT_TRUE((*model)->converted.empty());
  }
}

TEST(LoadTransformer, TiesTheOutputToTheEmbedding) {
  const auto model = LoadTransformer(Golden("llama_bf16_tied"));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->output.data, (*model)->embedding.data);
  EXPECT_EQ((*model)->embedding.format, WeightFormat::kBf16);
  EXPECT_EQ((*model)->output_norm.size(), 64u);
}

TEST(LoadTransformer, ReadsTheNormsOfQwen3sQueriesAndKeys) {
  const auto model = LoadTransformer(Golden("qwen3"));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->config.architecture, "qwen3");
  EXPECT_EQ((*model)->config.head_dim, 32u);
  EXPECT_EQ((*model)->layers[1].query_norm.size(), 32u);
  EXPECT_EQ((*model)->layers[1].key_norm.size(), 32u);
}

TEST(LoadTransformer, ReadsTheBiasesOfQwen2sQueriesKeysAndValues) {
  const auto model = LoadTransformer(Golden("qwen2"));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->config.architecture, "qwen2");
  EXPECT_EQ((*model)->layers[1].qkv_bias.size(), 8u * 16);
}

TEST(LoadTransformer, WantsTheHeadSizeOfQwen3) {
  EditedModel model("qwen3");
  model.config.erase("head_dim");
  model.ExpectError(kInvalid, "head_dim is missing");
  model.config["head_dim"] = 15;
  model.ExpectError(kInvalid, "head_dim is 15; wanted a multiple of 16");
}

TEST(LoadTransformer, IgnoresAWindowThatQwen3DoesNotUse) {
  EditedModel model("qwen3");
  model.config["sliding_window"] = 128;
  EXPECT_TRUE(model.Load().ok());
  model.config["use_sliding_window"] = true;
  model.ExpectError(kUnimplemented, "sliding_window");
}

TEST(LoadTransformer, NamesArchitecturesItDoesNotRun) {
  EditedModel model;
  model.config["architectures"] = {"GemmaForCausalLM"};
  model.ExpectError(kUnimplemented, "architectures is GemmaForCausalLM; wanted LlamaForCausalLM");
}

TEST(LoadTransformer, TakesTheHeadSizeFromTheHiddenSize) {
  EditedModel model;
  model.config["head_dim"] = nullptr;
  const auto loaded = model.Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->config.head_dim, 16u);
}

TEST(LoadTransformer, GathersEndTokensFromBothConfigurations) {
  EditedModel model;
  model.config["eos_token_id"] = {2, 5};
  model.folder().Write("generation_config.json", R"({"eos_token_id": [5, 9]})");
  const auto loaded = model.Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT((*loaded)->config.end_tokens, ElementsAre(2, 5, 9));
}

TEST(LoadTransformer, RefusesOptionsItDoesNotRun) {
  for (const auto& [field, value] :
       std::vector<std::pair<std::string, json>>{{"attention_bias", true},
                                                 {"mlp_bias", true},
                                                 {"hidden_act", "gelu"},
                                                 {"sliding_window", 128},
                                                 {"partial_rotary_factor", 0.5},
                                                 {"quantization_config", json::object()}}) {
    EditedModel model;
    model.config[field] = value;
    model.ExpectError(kUnimplemented, field);
  }
}

TEST(LoadTransformer, TakesAWindowAsLongAsTheContext) {
  EditedModel model("mistral");
  model.config["sliding_window"] = 2048;
  EXPECT_TRUE(model.Load().ok());
}

TEST(LoadTransformer, RefusesAConfigurationThatCannotBe) {
  for (const auto& [field, value] :
       std::vector<std::pair<std::string, json>>{{"num_attention_heads", 0},
                                                 {"num_attention_heads", "four"},
                                                 {"num_key_value_heads", 3},
                                                 {"num_hidden_layers", 0},
                                                 {"num_hidden_layers", uint64_t{1} << 60},
                                                 {"head_dim", uint64_t{1} << 62},
                                                 {"hidden_size", -64},
                                                 {"vocab_size", 0},
                                                 {"rms_norm_eps", 0},
                                                 {"max_position_embeddings", nullptr},
                                                 {"eos_token_id", 320},
                                                 {"eos_token_id", "2"},
                                                 {"bos_token_id", 99999}}) {
    EditedModel model;
    model.config[field] = value;
    SCOPED_TRACE(field);
    model.ExpectError(kInvalid, "config.json");
  }
}

TEST(LoadTransformer, ListsInListsAreNoEndTokensHoweverDeep) {
  const size_t depth = 200'000;
  EditedModel model;
  model.folder().Write(
      "generation_config.json",
      absl::StrCat("{\"eos_token_id\": ", std::string(depth, '['), std::string(depth, ']'), "}"));
  model.ExpectError(kInvalid, "is not a token id or a list of them");
}

TEST(LoadTransformer, ShowsBothShapesWhereATensorDoesNotFit) {
  EditedModel model;
  model.config["intermediate_size"] = 96;
  model.ExpectError(kInvalid, "has shape [128, 64]; the configuration wants [96, 64]");
}

TEST(LoadTransformer, NamesTensorsThatAreMissingOrHaveNoPlace) {
  EditedModel more;
  more.config["num_hidden_layers"] = 3;
  more.ExpectError(kInvalid, "tensor model.layers.2.input_layernorm.weight is missing");
  EditedModel fewer;
  fewer.config["num_hidden_layers"] = 1;
  fewer.ExpectError(kUnimplemented, "tensor model.layers.1");
}

TEST(LoadTransformer, NamesWhatAFolderLacks) {
  const TempFolder folder;
  EXPECT_EQ(LoadTransformer(folder.path()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(LoadTransformer("/nowhere").status().code(), absl::StatusCode::kNotFound);
}

TEST(LoadTransformer, CopiesWeightsThatLieUnaligned) {
  EditedModel model;
  const std::string path = model.folder().path() + "/model.safetensors";
  const auto aligned = model.Load();
  ASSERT_TRUE(aligned.ok()) << aligned.status();
  // One more space in the header moves all data to odd addresses.
  const std::string bytes = ReadBytes(path);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  model.folder().Write("model.safetensors", SafetensorsBytes(bytes.substr(8, header_bytes) + " ",
                                                             bytes.substr(8 + header_bytes)));
  const auto unaligned = model.Load();
  ASSERT_TRUE(unaligned.ok()) << unaligned.status();
  EXPECT_FALSE((*unaligned)->converted.empty());
  EXPECT_EQ(reinterpret_cast<uintptr_t>((*unaligned)->layers[0].query.data) % 4, 0u);
  EXPECT_EQ((*unaligned)->layers[1].ffn_norm, (*aligned)->layers[1].ffn_norm);
  EXPECT_EQ((*unaligned)->identity, (*aligned)->identity);
}

TEST(LoadTransformer, RefusesTiedEmbeddingsBesideAnOutputOfTheirOwn) {
  EditedModel model("llama");
  model.config["tie_word_embeddings"] = true;
  model.ExpectError(kUnimplemented, "tensor lm_head.weight differs from model.embed_tokens.weight");
}

TEST(LoadTransformer, ReadsShards) {
  EditedModel model("llama_bf16_tied");
  const auto single = model.Load();
  const std::string path = model.folder().path() + "/model.safetensors";
  const std::string bytes = ReadBytes(path);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  const json header = json::parse(bytes.substr(8, header_bytes));
  const std::string data = bytes.substr(8 + header_bytes);
  json headers[2];
  std::string parts[2];
  json weight_map;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const size_t shard = name.size() % 2;
    const size_t begin = entry["data_offsets"][0];
    const size_t end = entry["data_offsets"][1];
    headers[shard][name] = entry;
    headers[shard][name]["data_offsets"] = {parts[shard].size(), parts[shard].size() + end - begin};
    parts[shard] += data.substr(begin, end - begin);
    weight_map[name] = "part" + std::to_string(shard) + ".safetensors";
  }
  std::filesystem::remove(path);
  for (size_t shard : {0, 1}) {
    model.folder().Write("part" + std::to_string(shard) + ".safetensors",
                         SafetensorsBytes(headers[shard].dump(), parts[shard]));
  }
  model.folder().Write("model.safetensors.index.json", json{{"weight_map", weight_map}}.dump());
  const auto sharded = model.Load();
  ASSERT_TRUE(sharded.ok()) << sharded.status();
  EXPECT_EQ((*sharded)->files.size(), 2u);
  EXPECT_EQ((*sharded)->identity, (*single)->identity);
}

TEST(LoadTransformer, RefusesNormsThatAreNotFinite) {
  for (const float bad : {INFINITY, NAN}) {
    GgufWriter gguf = TinyGguf();
    std::string bytes = gguf.Bytes();
    bytes.replace(bytes.size() - 4, 4, BytesOf(bad));  // output_norm comes last
    const TempFolder folder;
    const auto model = LoadTransformer(folder.Write("model.gguf", bytes));
    EXPECT_EQ(model.status().code(), kInvalid);
    EXPECT_THAT(std::string(model.status().message()), HasSubstr("output_norm.weight[31]"));
  }
}

TEST(LoadTransformer, ReadsAGgufModel) {
  const TempFolder folder;
  const auto model = LoadTransformer(folder.Write("model.gguf", TinyGguf().Bytes()));
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelConfig& config = (*model)->config;
  EXPECT_EQ(config.architecture, "llama");
  EXPECT_EQ(config.name, "tiny");
  EXPECT_EQ(config.head_dim, 16u);
  EXPECT_EQ(config.vocab_tokens, 40u);
  EXPECT_EQ(config.rope_pairs, RopePairs::kAdjacent);
  EXPECT_THAT(config.end_tokens, ElementsAre(2, 0));
  EXPECT_EQ(config.begin_token, 1);
  EXPECT_EQ((*model)->output.data, (*model)->embedding.data);
  EXPECT_EQ((*model)->layers[0].key.rows, 16u);
}

TEST(LoadTransformer, ReadsAGgufModelOfQwen3) {
  GgufWriter gguf = TinyGguf(false, "qwen3");
  gguf.Tensor("blk.0.attn_q_norm.weight", {16}, kGgufF32, RandomFloats(16, 1))
      .Tensor("blk.0.attn_k_norm.weight", {16}, kGgufF32, RandomFloats(16, 2));
  const TempFolder folder;
  const auto model = LoadTransformer(folder.Write("model.gguf", gguf.Bytes()));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->config.architecture, "qwen3");
  EXPECT_EQ((*model)->config.head_dim, 16u);
  EXPECT_EQ((*model)->config.rope_pairs, RopePairs::kHalves);
  EXPECT_EQ((*model)->layers[0].query_norm.size(), 16u);
  EXPECT_EQ((*model)->layers[0].key_norm.size(), 16u);
  ExpectGgufError(TinyGguf(false, "qwen3"), kInvalid, "attn_q_norm.weight is missing");
}

TEST(LoadTransformer, ReadsAGgufModelOfQwen2) {
  GgufWriter gguf = TinyGguf(false, "qwen2");
  gguf.Tensor("blk.0.attn_q.bias", {32}, kGgufF32, RandomFloats(32, 1))
      .Tensor("blk.0.attn_k.bias", {16}, kGgufF32, RandomFloats(16, 2))
      .Tensor("blk.0.attn_v.bias", {16}, kGgufF32, RandomFloats(16, 3));
  const TempFolder folder;
  const auto model = LoadTransformer(folder.Write("model.gguf", gguf.Bytes()));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->config.architecture, "qwen2");
  EXPECT_EQ((*model)->config.rope_pairs, RopePairs::kHalves);
  const std::string wanted = RandomFloats(32, 1) + RandomFloats(16, 2) + RandomFloats(16, 3);
  const std::vector<float>& bias = (*model)->layers[0].qkv_bias;
  ASSERT_EQ(bias.size() * sizeof(float), wanted.size());
  EXPECT_EQ(std::memcmp(bias.data(), wanted.data(), wanted.size()), 0);
  ExpectGgufError(TinyGguf(false, "qwen2"), kInvalid, "attn_q.bias is missing");
}

TEST(LoadTransformer, RefusesGgufOptionsItDoesNotRun) {
  ExpectGgufError(TinyGguf().Count("split.count", 2), kUnimplemented, "split.count is 2");
  ExpectGgufError(TinyGguf().Count("llama.rope.dimension_count", 8), kUnimplemented, "is 8");
  ExpectGgufError(TinyGguf().Count("llama.attention.sliding_window", 32), kUnimplemented, "32");
  ExpectGgufError(TinyGguf().Tensor("blk.0.attn_q.bias", {32}, kGgufF32, RandomFloats(32, 1)),
                  kUnimplemented, "blk.0.attn_q.bias");
  GgufWriter other;
  ExpectGgufError(other.Name("general.architecture", "gemma"), kUnimplemented, "gemma");
  ExpectGgufError(TinyGguf().Integers("llama.attention.key_length", {16}), kInvalid, "key_length");
}

TEST(LoadTransformer, GivesAnIdentityThatFollowsTheContent) {
  const TempFolder folder;
  const std::string bytes = TinyGguf().Bytes();
  const auto one = LoadTransformer(folder.Write("a.gguf", bytes));
  const auto same = LoadTransformer(folder.Write("b.gguf", bytes));
  std::string changed = bytes;
  changed[changed.size() - 200] ^= 1;
  const auto other = LoadTransformer(folder.Write("c.gguf", changed));
  ASSERT_TRUE(one.ok() && same.ok() && other.ok());
  EXPECT_EQ((*one)->identity, (*same)->identity);
  EXPECT_NE((*one)->identity, (*other)->identity);
}

TEST(LoadTransformer, ReadsTheDemoModel) {
  if (IsMissing(KVSHIP_DEMO_MODEL)) GTEST_SKIP() << "no " << KVSHIP_DEMO_MODEL;
  const auto model = LoadTransformer(KVSHIP_DEMO_MODEL);
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelConfig& config = (*model)->config;
  EXPECT_EQ(config.num_layers, 30u);
  EXPECT_EQ(config.num_query_heads, 9u);
  EXPECT_EQ(config.num_kv_heads, 3u);
  EXPECT_EQ(config.head_dim, 64u);
  EXPECT_EQ(config.context_tokens, 8192u);
  EXPECT_EQ(config.vocab_tokens, 49152u);
  EXPECT_THAT(config.end_tokens, ElementsAre(2));
  EXPECT_EQ((*model)->embedding.format, WeightFormat::kQ8_0);
  EXPECT_EQ((*model)->layers[29].experts[0].down.format, WeightFormat::kQ4_1);
  EXPECT_TRUE((*model)->converted.empty());
}

}  // namespace
}  // namespace kvship
