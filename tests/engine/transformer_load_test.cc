#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <numbers>

#include "base/float16.h"
#include "engine/transformer.h"
#include "tests/engine/model_files.h"
#include "tests/needed.h"

namespace kvship {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

std::string Golden(const std::string& name) { return KVSHIP_GOLDENS "/models/" + name; }

// A copy of a golden model whose configuration a test changes.
class EditedModel {
 public:
  explicit EditedModel(const std::string& name = "llama") {
    std::filesystem::copy(Golden(name), folder_.path());
    config = json::parse(ReadBytes(folder_.path() + "/config.json"));
  }
  absl::StatusOr<std::unique_ptr<const Transformer>> Load() const {
    folder_.Write("config.json", config.dump());
    return LoadTransformer(folder_.path());
  }
  void ExpectError(absl::StatusCode code, const std::string& words) const {
    const auto model = Load();
    EXPECT_EQ(model.status().code(), code) << model.status();
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(words));
  }
  const TempFolder& folder() const { return folder_; }
  json config;

 private:
  TempFolder folder_;
};

void ExpectGgufError(const GgufWriter& gguf, absl::StatusCode code, const std::string& words) {
  const TempFolder folder;
  const auto model = LoadTransformer(folder.Write("model.gguf", gguf.Bytes()));
  EXPECT_EQ(model.status().code(), code) << model.status();
  EXPECT_THAT(std::string(model.status().message()), HasSubstr(words));
}

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
    EXPECT_EQ((*model)->layers[1].down.cols, 128u);
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
  for (const char* name : {"mixtral", "qwen2"}) {
    const auto model = LoadTransformer(Golden(name));
    EXPECT_EQ(model.status().code(), kUnimplemented) << model.status();
    EXPECT_THAT(std::string(model.status().message()), HasSubstr("ForCausalLM"));
  }
}

TEST(LoadTransformer, ScalesRotaryFrequencies) {
  const auto plain = LoadTransformer(Golden("llama"));
  const auto linear = LoadTransformer(Golden("longchat_linear_rope"));
  const auto llama3 = LoadTransformer(Golden("llama3_rope"));
  ASSERT_TRUE(plain.ok() && linear.ok() && llama3.ok());
  for (size_t i = 0; i < 8; ++i) {
    const double base = std::pow(10000.0, -static_cast<double>(i) / 8);
    EXPECT_NEAR((*plain)->config.rope_frequencies[i], base, 1e-12 * base);
    EXPECT_NEAR((*linear)->config.rope_frequencies[i], base / 8, 1e-12 * base);
    // The formula of modeling_rope_utils.py in its own terms: factor 8, low 1, high 4, original 64.
    const double frequency = std::pow(500000.0, -static_cast<double>(i) / 8);
    const double wavelength = 2 * std::numbers::pi / frequency;
    const double smooth = (64 / wavelength - 1) / 3;
    const double wanted = wavelength > 64       ? frequency / 8
                          : wavelength * 4 < 64 ? frequency
                                                : (1 - smooth) * frequency / 8 + smooth * frequency;
    EXPECT_NEAR((*llama3)->config.rope_frequencies[i], wanted, 1e-12 * wanted);
  }
}

TEST(LoadTransformer, ReadsBothSpellingsOfRopeParameters) {
  EditedModel model("llama3_rope");
  const auto parameters = model.Load();
  ASSERT_TRUE(parameters.ok()) << parameters.status();
  json scaling = model.config["rope_parameters"];
  model.config.erase("rope_parameters");
  model.config["rope_theta"] = scaling["rope_theta"];
  scaling.erase("rope_theta");
  model.config["rope_scaling"] = scaling;
  const auto old_spelling = model.Load();
  ASSERT_TRUE(old_spelling.ok()) << old_spelling.status();
  EXPECT_EQ((*parameters)->identity, (*old_spelling)->identity);
}

TEST(LoadTransformer, ReadsTheOldestSpellingOfLinearScaling) {
  EditedModel model("longchat_linear_rope");
  const auto parameters = model.Load();
  model.config.erase("rope_parameters");
  model.config["rope_scaling"] = {{"type", "linear"}, {"factor", 8}};  // theta is 10000 by default
  const auto old_spelling = model.Load();
  ASSERT_TRUE(parameters.ok() && old_spelling.ok()) << old_spelling.status();
  EXPECT_EQ((*parameters)->identity, (*old_spelling)->identity);
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
  EditedModel yarn;
  yarn.config["rope_parameters"]["rope_type"] = "yarn";
  yarn.ExpectError(kUnimplemented, "rope_type is yarn");
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

TEST(LoadTransformer, DividesFrequenciesByTheFactorsOfAGguf) {
  const TempFolder folder;
  const auto plain = LoadTransformer(folder.Write("plain.gguf", TinyGguf().Bytes()));
  const auto scaled = LoadTransformer(folder.Write("scaled.gguf", TinyGguf(true).Bytes()));
  ASSERT_TRUE(plain.ok() && scaled.ok()) << scaled.status();
  const auto& base = (*plain)->config.rope_frequencies;
  const auto& divided = (*scaled)->config.rope_frequencies;
  EXPECT_EQ(divided[3], base[3]);
  EXPECT_EQ(divided[4], base[4] / 8);
}

TEST(LoadTransformer, RefusesGgufOptionsItDoesNotRun) {
  ExpectGgufError(TinyGguf().Count("llama.expert_count", 8), kUnimplemented, "expert_count is 8");
  ExpectGgufError(TinyGguf().Count("split.count", 2), kUnimplemented, "split.count is 2");
  ExpectGgufError(TinyGguf().Count("llama.rope.dimension_count", 8), kUnimplemented, "is 8");
  ExpectGgufError(TinyGguf().Name("llama.rope.scaling.type", "yarn"), kUnimplemented, "yarn");
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
  EXPECT_EQ((*model)->layers[29].down.format, WeightFormat::kQ4_1);
  EXPECT_TRUE((*model)->converted.empty());
}

}  // namespace
}  // namespace kvship
