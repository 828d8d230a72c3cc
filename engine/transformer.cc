#include "engine/transformer.h"

#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "engine/gguf.h"
#include "engine/gguf_config.h"
#include "engine/hf_config.h"
#include "engine/safetensors.h"
#include "engine/weight_source.h"

namespace kvship {
namespace {

struct FeedForwardNames {
  const char* gate;
  const char* up;
  const char* down;
};

// What the kinds of checkpoint call the same tensors; those of a layer follow its prefix.
struct TensorNames {
  const char* embedding;
  const char* output_norm;
  const char* output;
  const char* layers;
  const char* attention_norm;
  const char* query;
  const char* key;
  const char* value;
  const char* query_bias;
  const char* key_bias;
  const char* value_bias;
  const char* query_norm;
  const char* key_norm;
  const char* attention_output;
  const char* ffn_norm;
  FeedForwardNames feed_forward;  // of all tokens
  const char* router;
  FeedForwardNames expert;      // $0 stands for its number
  FeedForwardNames experts;     // of all in one tensor; null where there is no such
  const char* experts_gate_up;  // of all, each one's gate before its up; likewise
};

constexpr TensorNames kHfNames = {
    .embedding = "model.embed_tokens.weight",
    .output_norm = "model.norm.weight",
    .output = "lm_head.weight",
    .layers = "model.layers.",
    .attention_norm = ".input_layernorm.weight",
    .query = ".self_attn.q_proj.weight",
    .key = ".self_attn.k_proj.weight",
    .value = ".self_attn.v_proj.weight",
    .query_bias = ".self_attn.q_proj.bias",
    .key_bias = ".self_attn.k_proj.bias",
    .value_bias = ".self_attn.v_proj.bias",
    .query_norm = ".self_attn.q_norm.weight",
    .key_norm = ".self_attn.k_norm.weight",
    .attention_output = ".self_attn.o_proj.weight",
    .ffn_norm = ".post_attention_layernorm.weight",
    .feed_forward = {.gate = ".mlp.gate_proj.weight",
                     .up = ".mlp.up_proj.weight",
                     .down = ".mlp.down_proj.weight"},
    .router = ".mlp.gate.weight",
    .expert = {.gate = ".mlp.experts.$0.gate_proj.weight",
               .up = ".mlp.experts.$0.up_proj.weight",
               .down = ".mlp.experts.$0.down_proj.weight"},
    .experts = {},
    .experts_gate_up = nullptr,
};

constexpr TensorNames MixtralNames() {
  TensorNames names = kHfNames;
  names.router = ".block_sparse_moe.gate.weight";
  names.expert = {.gate = ".block_sparse_moe.experts.$0.w1.weight",
                  .up = ".block_sparse_moe.experts.$0.w3.weight",
                  .down = ".block_sparse_moe.experts.$0.w2.weight"};
  return names;
}

constexpr TensorNames kGgufNames = {
    .embedding = "token_embd.weight",
    .output_norm = "output_norm.weight",
    .output = "output.weight",
    .layers = "blk.",
    .attention_norm = ".attn_norm.weight",
    .query = ".attn_q.weight",
    .key = ".attn_k.weight",
    .value = ".attn_v.weight",
    .query_bias = ".attn_q.bias",
    .key_bias = ".attn_k.bias",
    .value_bias = ".attn_v.bias",
    .query_norm = ".attn_q_norm.weight",
    .key_norm = ".attn_k_norm.weight",
    .attention_output = ".attn_output.weight",
    .ffn_norm = ".ffn_norm.weight",
    .feed_forward = {.gate = ".ffn_gate.weight",
                     .up = ".ffn_up.weight",
                     .down = ".ffn_down.weight"},
    .router = ".ffn_gate_inp.weight",
    // Mixtral's first files have a tensor for each expert.
    .expert = {.gate = ".ffn_gate.$0.weight",
               .up = ".ffn_up.$0.weight",
               .down = ".ffn_down.$0.weight"},
    .experts = {.gate = ".ffn_gate_exps.weight",
                .up = ".ffn_up_exps.weight",
                .down = ".ffn_down_exps.weight"},
    .experts_gate_up = ".ffn_gate_up_exps.weight",
};

// One of the three matrices [rows, cols] of every expert.
absl::StatusOr<std::vector<WeightView>> ReadExpertMatrices(WeightSource& source,
                                                           const std::string& prefix,
                                                           const char* expert, const char* experts,
                                                           size_t count, size_t rows, size_t cols) {
  const auto name = [&](size_t i) { return absl::StrCat(prefix, absl::Substitute(expert, i)); };
  if (experts != nullptr && !source.Has(name(0))) {
    return source.Matrices(absl::StrCat(prefix, experts), count, rows, cols);
  }
  std::vector<WeightView> matrices;
  for (size_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(const WeightView matrix, source.Matrix(name(i), rows, cols));
    matrices.push_back(matrix);
  }
  return matrices;
}

absl::Status ReadGatesAndUps(WeightSource& source, const TensorNames& names,
                             const ModelConfig& config, const std::string& prefix,
                             std::vector<WeightView>& gates, std::vector<WeightView>& ups) {
  const size_t c = config.hidden_dim, f = config.ffn_dim, count = config.num_experts;
  const std::string fused =
      names.experts_gate_up == nullptr ? "" : absl::StrCat(prefix, names.experts_gate_up);
  if (source.Has(fused)) {
    ASSIGN_OR_RETURN(gates, source.Matrices(fused, count, 2 * f, c));
    for (WeightView& gate : gates) {
      gate.rows = f;
      WeightView& up = ups.emplace_back(gate);
      up.data += up.num_bytes();
    }
    return absl::OkStatus();
  }
  const FeedForwardNames &one = names.expert, &all = names.experts;
  ASSIGN_OR_RETURN(gates, ReadExpertMatrices(source, prefix, one.gate, all.gate, count, f, c));
  ASSIGN_OR_RETURN(ups, ReadExpertMatrices(source, prefix, one.up, all.up, count, f, c));
  return absl::OkStatus();
}

absl::Status ReadFeedForward(WeightSource& source, const TensorNames& names,
                             const ModelConfig& config, const std::string& prefix,
                             LayerWeights& out) {
  const size_t c = config.hidden_dim, f = config.ffn_dim;
  ASSIGN_OR_RETURN(out.ffn_norm, source.Vector(prefix + names.ffn_norm, c));
  if (!config.has_experts()) {
    FeedForwardWeights& all = out.experts.emplace_back();
    ASSIGN_OR_RETURN(all.gate, source.Matrix(prefix + names.feed_forward.gate, f, c));
    ASSIGN_OR_RETURN(all.up, source.Matrix(prefix + names.feed_forward.up, f, c));
    ASSIGN_OR_RETURN(all.down, source.Matrix(prefix + names.feed_forward.down, c, f));
    return absl::OkStatus();
  }
  const size_t count = config.num_experts;
  ASSIGN_OR_RETURN(out.router, source.Matrix(prefix + names.router, count, c));
  std::vector<WeightView> gates, ups;
  RETURN_IF_ERROR(ReadGatesAndUps(source, names, config, prefix, gates, ups));
  ASSIGN_OR_RETURN(
      const std::vector<WeightView> downs,
      ReadExpertMatrices(source, prefix, names.expert.down, names.experts.down, count, c, f));
  for (size_t i = 0; i < count; ++i) out.experts.push_back({gates[i], ups[i], downs[i]});
  return absl::OkStatus();
}

absl::StatusOr<LayerWeights> ReadLayer(WeightSource& source, const TensorNames& names,
                                       const ModelConfig& config, size_t layer) {
  const std::string prefix = absl::StrCat(names.layers, layer);
  const size_t hidden = config.hidden_dim;
  const size_t query_dim = config.num_query_heads * config.head_dim;
  const size_t kv_dim = config.num_kv_heads * config.head_dim;
  LayerWeights out;
  ASSIGN_OR_RETURN(out.attention_norm, source.Vector(prefix + names.attention_norm, hidden));
  ASSIGN_OR_RETURN(out.query, source.Matrix(prefix + names.query, query_dim, hidden));
  ASSIGN_OR_RETURN(out.key, source.Matrix(prefix + names.key, kv_dim, hidden));
  ASSIGN_OR_RETURN(out.value, source.Matrix(prefix + names.value, kv_dim, hidden));
  if (config.has_query_key_value_bias()) {
    ASSIGN_OR_RETURN(out.qkv_bias, source.Vector(prefix + names.query_bias, query_dim));
    for (const char* name : {names.key_bias, names.value_bias}) {
      ASSIGN_OR_RETURN(const std::vector<float> bias, source.Vector(prefix + name, kv_dim));
      out.qkv_bias.insert(out.qkv_bias.end(), bias.begin(), bias.end());
    }
  }
  if (config.has_query_key_norm()) {
    ASSIGN_OR_RETURN(out.query_norm, source.Vector(prefix + names.query_norm, config.head_dim));
    ASSIGN_OR_RETURN(out.key_norm, source.Vector(prefix + names.key_norm, config.head_dim));
  }
  ASSIGN_OR_RETURN(out.output, source.Matrix(prefix + names.attention_output, hidden, query_dim));
  RETURN_IF_ERROR(ReadFeedForward(source, names, config, prefix, out));
  return out;
}

// Everything but the mapped files. `out.config` is there already.
absl::Status ReadWeights(WeightSource& source, const TensorNames& names, bool tied_embeddings,
                         Transformer& out) {
  const ModelConfig& config = out.config;
  ASSIGN_OR_RETURN(out.embedding,
                   source.Matrix(names.embedding, config.vocab_tokens, config.hidden_dim));
  ASSIGN_OR_RETURN(out.output_norm, source.Vector(names.output_norm, config.hidden_dim));
  if (tied_embeddings) {
    out.output = out.embedding;
    RETURN_IF_ERROR(source.IgnoreCopy(names.output, names.embedding));
  } else {
    ASSIGN_OR_RETURN(out.output,
                     source.Matrix(names.output, config.vocab_tokens, config.hidden_dim));
  }
  for (size_t layer = 0; layer < config.num_layers; ++layer) {
    ASSIGN_OR_RETURN(LayerWeights weights, ReadLayer(source, names, config, layer));
    out.layers.push_back(std::move(weights));
  }
  RETURN_IF_ERROR(source.CheckAllUsed());
  out.identity = source.Identity(config);
  out.converted = source.TakeConverted();
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<const Transformer>> LoadGguf(const std::string& path) {
  ASSIGN_OR_RETURN(GgufFile file, GgufFile::Open(path));
  auto out = std::make_unique<Transformer>();
  ASSIGN_OR_RETURN(out->config, ReadGgufConfig(file));
  if (out->config.name.empty()) {
    out->config.name = ReplaceInvalidUtf8(std::filesystem::path(path).stem().string());
  }
  WeightSource source(path, file.tensors());
  source.Ignore("rope_freqs.weight");  // applied to the frequencies
  RETURN_IF_ERROR(ReadWeights(source, kGgufNames, !source.Has(kGgufNames.output), *out));
  out->files.push_back(std::move(file).TakeFile());
  return out;
}

absl::StatusOr<std::unique_ptr<const Transformer>> LoadHfDirectory(const std::string& directory) {
  ASSIGN_OR_RETURN(HfConfig config, ReadHfConfig(directory));
  ASSIGN_OR_RETURN(SafetensorsFiles weights, ReadSafetensorsDirectory(directory));
  auto out = std::make_unique<Transformer>();
  out->config = std::move(config.model);
  WeightSource source(directory, weights.tensors);
  for (const auto& [name, tensor] : weights.tensors) {
    // Old checkpoints hold the unscaled frequencies, which the configuration gives too.
    if (absl::EndsWith(name, ".rotary_emb.inv_freq")) source.Ignore(name);
  }
  const TensorNames names = out->config.architecture == "mixtral" ? MixtralNames() : kHfNames;
  RETURN_IF_ERROR(ReadWeights(source, names, config.tied_embeddings, *out));
  out->files = std::move(weights.files);
  return out;
}

}  // namespace

Arithmetic ArithmeticFor(const Transformer& model, Arithmetic wanted) {
  const WeightFormat format = model.layers.front().query.format;
  const bool floats = format == WeightFormat::kF32 || format == WeightFormat::kF16;
  return floats ? Arithmetic::kFloat32 : wanted;
}

absl::StatusOr<std::unique_ptr<const Transformer>> LoadTransformer(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored) ? LoadHfDirectory(path) : LoadGguf(path);
}

}  // namespace kvship
