#include "client/plan_model.h"

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/gguf.h"
#include "engine/gguf_config.h"
#include "engine/hf_config.h"
#include "engine/safetensors.h"

namespace kvship {
namespace {

constexpr double kBytesPerWeight16 = 2;

struct Dimensions {
  std::string name;
  size_t layers, query_heads, kv_heads, head_dim, hidden, ffn, vocab, context;
  bool tied_embeddings;       // the output product reads the embedding
  size_t experts = 1;         // feed-forward networks of a layer
  size_t chosen_experts = 1;  // by a token

  double expert_weights() const { return static_cast<double>(layers * 3 * ffn * hidden); }
};

// As their config.json say.
const Dimensions kShapes[] = {
    {"llama-2-7b", 32, 32, 32, 128, 4096, 11008, 32000, 4096, false},
    {"llama-3.1-8b", 32, 32, 8, 128, 4096, 14336, 128256, 131072, false},
    {"llama-3.1-70b", 80, 64, 8, 128, 8192, 28672, 128256, 131072, false},
    {"mistral-7b", 32, 32, 8, 128, 4096, 14336, 32768, 32768, false},
    {"qwen2.5-7b", 28, 28, 4, 128, 3584, 18944, 152064, 32768, false},
    {"qwen3-8b", 36, 32, 8, 128, 4096, 12288, 151936, 40960, false},
    {"qwen3-32b", 64, 64, 8, 128, 5120, 25600, 151936, 40960, false},
    {"smollm2-135m", 30, 9, 3, 64, 576, 1536, 49152, 8192, true},
    {"mixtral-8x7b", 32, 32, 8, 128, 4096, 14336, 32000, 32768, false, 8, 2},
    {"qwen3-30b-a3b", 48, 32, 4, 128, 2048, 768, 151936, 40960, false, 128, 8},
};

Dimensions DimensionsOf(const ModelConfig& config, bool tied_embeddings) {
  return {.name = config.name,
          .layers = config.num_layers,
          .query_heads = config.num_query_heads,
          .kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .hidden = config.hidden_dim,
          .ffn = config.ffn_dim,
          .vocab = config.vocab_tokens,
          .context = config.context_tokens,
          .tied_embeddings = tied_embeddings,
          .experts = config.has_experts() ? config.num_experts : 1,
          .chosen_experts = config.has_experts() ? config.experts_per_token : 1};
}

// Queries and the attention's output have Hq heads, keys and values H; the feed-forward network has
// three matrices. Norms, biases and routers are too small to count. The weights take `weight_bytes`
// in all, or 16 bits each where that is 0.
PlannedModel ModelOf(const Dimensions& dimensions, double weight_bytes) {
  PlannedModel model;
  model.name = dimensions.name;
  model.context_tokens = dimensions.context;
  model.shape = {.num_layers = dimensions.layers,
                 .num_kv_heads = dimensions.kv_heads,
                 .num_query_heads = dimensions.query_heads,
                 .head_dim = dimensions.head_dim};
  const size_t heads = dimensions.query_heads + dimensions.kv_heads;
  const size_t attention = 2 * heads * dimensions.head_dim * dimensions.hidden;
  const auto experts = static_cast<double>(dimensions.experts);
  const auto chosen = static_cast<double>(dimensions.chosen_experts);
  model.layer_weights =
      static_cast<double>(dimensions.layers * attention) + chosen * dimensions.expert_weights();
  model.output_weights = static_cast<double>(dimensions.vocab * dimensions.hidden);

  // A step reads one row of an embedding that is not the output matrix too.
  const double a_token = model.layer_weights + model.output_weights;
  const double all = a_token + (experts - chosen) * dimensions.expert_weights() +
                     (dimensions.tied_embeddings ? 0 : model.output_weights);
  model.weight_bytes = weight_bytes > 0 ? weight_bytes : all * kBytesPerWeight16;
  model.step_bytes = model.weight_bytes * a_token / all;
  if (experts == 1) return model;
  const double expert_bytes = model.weight_bytes * dimensions.expert_weights() / all;
  model.step_bytes -= chosen * expert_bytes;
  model.experts_bytes = experts * expert_bytes;
  model.chosen_share = chosen / experts;
  return model;
}

absl::StatusOr<PlannedModel> ReadGgufModel(const std::string& path) {
  ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  ASSIGN_OR_RETURN(const ModelConfig config, ReadGgufConfig(file));
  const bool tied = !file.tensors().contains("output.weight");
  double bytes = 0;
  for (const auto& [name, tensor] : file.tensors()) {
    bytes += static_cast<double>(tensor.bytes.size());
  }
  return ModelOf(DimensionsOf(config, tied), bytes);
}

// 0 where there are none, as where only the files that describe the model were fetched.
absl::StatusOr<double> WeightBytesOf(const std::string& directory) {
  const absl::StatusOr<std::vector<std::string>> paths = SafetensorsPaths(directory);
  if (absl::IsNotFound(paths.status())) return 0;
  RETURN_IF_ERROR(paths.status());
  double bytes = 0;
  std::string missing;
  for (const std::string& path : *paths) {
    std::error_code error;
    const auto file_bytes = std::filesystem::file_size(path, error);
    if (error) {
      missing = path;
    } else {
      bytes += static_cast<double>(file_bytes);
    }
  }
  if (bytes == 0 || missing.empty()) return bytes;
  return absl::NotFoundError(absl::StrCat(
      missing, " is missing, but not all shards of the weights are; wanted all or none"));
}

absl::StatusOr<PlannedModel> ReadHfModel(const std::string& directory) {
  ASSIGN_OR_RETURN(const HfConfig config, ReadHfConfig(directory));
  ASSIGN_OR_RETURN(const double bytes, WeightBytesOf(directory));
  return ModelOf(DimensionsOf(config.model, config.tied_embeddings), bytes);
}

}  // namespace

absl::StatusOr<PlannedModel> ReadPlannedModel(const std::string& path_or_name) {
  std::error_code error;
  if (std::filesystem::is_directory(path_or_name, error)) return ReadHfModel(path_or_name);
  if (std::filesystem::exists(path_or_name, error)) return ReadGgufModel(path_or_name);
  std::string names;
  for (const Dimensions& shape : kShapes) {
    if (shape.name == path_or_name) return ModelOf(shape, 0);
    absl::StrAppend(&names, names.empty() ? "" : ", ", shape.name);
  }
  return absl::NotFoundError(absl::StrCat(
      "--model is '", path_or_name, "'; wanted a GGUF file, a model directory or one of ", names));
}

}  // namespace kvship
