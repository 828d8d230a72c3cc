#include "engine/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "engine/rope_scaling.h"

namespace kvship {
namespace {

absl::Status Bad(const GgufFile& file, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", what));
}

absl::Status Refuse(const GgufFile& file, absl::string_view what) {
  return absl::UnimplementedError(absl::StrCat(file.path(), ": ", what));
}

// Metadata of a model stand under the name of its architecture.
std::string Key(const ModelConfig& model, absl::string_view name) {
  return absl::StrCat(model.architecture, ".", name);
}

absl::Status ReadShape(const GgufFile& file, ModelConfig& model) {
  ASSIGN_OR_RETURN(model.num_layers, file.RequiredCount(Key(model, "block_count")));
  ASSIGN_OR_RETURN(model.hidden_dim, file.RequiredCount(Key(model, "embedding_length")));
  ASSIGN_OR_RETURN(model.ffn_dim, file.RequiredCount(Key(model, "feed_forward_length")));
  ASSIGN_OR_RETURN(model.context_tokens, file.RequiredCount(Key(model, "context_length")));
  ASSIGN_OR_RETURN(model.num_query_heads, file.RequiredCount(Key(model, "attention.head_count")));
  if (model.num_query_heads == 0) {
    return Bad(file, absl::StrCat("metadata ", Key(model, "attention.head_count"),
                                  " is 0; wanted at least 1"));
  }
  ASSIGN_OR_RETURN(const auto kv_heads, file.Count(Key(model, "attention.head_count_kv")));
  model.num_kv_heads = kv_heads.value_or(model.num_query_heads);
  ASSIGN_OR_RETURN(const auto key_dim, file.Count(Key(model, "attention.key_length")));
  model.head_dim = key_dim.value_or(model.hidden_dim / model.num_query_heads);
  ASSIGN_OR_RETURN(const auto value_dim, file.Count(Key(model, "attention.value_length")));
  if (value_dim.value_or(model.head_dim) != model.head_dim) {
    return Refuse(file, absl::StrCat("metadata ", Key(model, "attention.value_length"), " is ",
                                     *value_dim, "; wanted the length of a key, ", model.head_dim));
  }
  ASSIGN_OR_RETURN(const auto epsilon, file.Number(Key(model, "attention.layer_norm_rms_epsilon")));
  if (!epsilon.has_value()) {
    return Bad(file, absl::StrCat("metadata ", Key(model, "attention.layer_norm_rms_epsilon"),
                                  " is missing"));
  }
  model.norm_epsilon = static_cast<float>(*epsilon);
  const auto embedding = file.tensors().find("token_embd.weight");
  if (embedding == file.tensors().end()) return Bad(file, "tensor token_embd.weight is missing");
  model.vocab_tokens = embedding->second.shape.front();
  return absl::OkStatus();
}

// A mixture as neither Mixtral nor Qwen3-MoE is one.
absl::Status RefuseExpertOptions(const GgufFile& file, const ModelConfig& model) {
  // What each has to be where it is there; 0 says the same as nothing. A gating function of 1 is
  // softmax.
  constexpr std::pair<const char*, double> kOptions[] = {
      {"expert_gating_func", 1},        {"expert_weights_scale", 1},
      {"expert_shared_count", 0},       {"expert_shared_feed_forward_length", 0},
      {"expert_group_count", 1},        {"leading_dense_block_count", 0},
      {"interleave_moe_layer_step", 1}, {"moe_every_n_layers", 1},
  };
  for (const auto& [name, wanted] : kOptions) {
    const std::string key = Key(model, name);
    ASSIGN_OR_RETURN(const auto number, file.Number(key));
    if (number.value_or(0) == 0 || *number == wanted) continue;
    return Refuse(file, absl::StrCat("metadata ", key, " is ", *number, "; wanted ", wanted));
  }
  const std::string norm = Key(model, "expert_weights_norm");
  ASSIGN_OR_RETURN(const auto normalizes, file.Flag(norm));
  if (normalizes.value_or(true)) return absl::OkStatus();
  return Refuse(file, absl::StrCat("metadata ", norm, " is false; wanted true"));
}

absl::Status ReadExperts(const GgufFile& file, ModelConfig& model) {
  const std::string key = Key(model, "expert_count");
  ASSIGN_OR_RETURN(const auto count, file.Count(key));
  const bool has_experts = count.value_or(0) > 0, is_qwen = model.architecture == "qwen3moe";
  if (is_qwen && !has_experts) {
    return Bad(file, absl::StrCat("metadata ", key, " is ", count.has_value() ? "0" : "missing",
                                  "; wanted at least 1"));
  }
  if (!has_experts) return absl::OkStatus();
  if (!is_qwen && model.architecture != "llama") {
    return Refuse(file, absl::StrCat("metadata ", key, " is ", *count, "; wanted a ",
                                     model.architecture, " model without experts"));
  }
  model.num_experts = *count;
  ASSIGN_OR_RETURN(model.experts_per_token, file.RequiredCount(Key(model, "expert_used_count")));
  if (is_qwen) {
    ASSIGN_OR_RETURN(model.ffn_dim, file.RequiredCount(Key(model, "expert_feed_forward_length")));
  }
  // Files do not say so, and llama.cpp does it for both architectures.
  model.normalizes_expert_weights = true;
  return RefuseExpertOptions(file, model);
}

// What would change the computation and kvship does not do.
absl::Status RefuseOptions(const GgufFile& file, const ModelConfig& model) {
  ASSIGN_OR_RETURN(const auto files, file.Count("split.count"));
  if (files.value_or(1) > 1) {
    return Refuse(file,
                  absl::StrCat("metadata split.count is ", *files, "; wanted a model in one file"));
  }
  ASSIGN_OR_RETURN(const auto window, file.Count(Key(model, "attention.sliding_window")));
  if (window.has_value() && *window > 0 && *window < model.context_tokens) {
    return Refuse(file,
                  absl::StrCat("metadata ", Key(model, "attention.sliding_window"), " is ", *window,
                               "; wanted at least the context of ", model.context_tokens));
  }
  for (const char* name : {"attention.scale", "logit_scale", "embedding_scale", "residual_scale",
                           "attention.clamp_kqv"}) {
    if (file.Has(Key(model, name))) {
      return Refuse(file, absl::StrCat("metadata ", Key(model, name), " is there; wanted a plain ",
                                       model.architecture, " model"));
    }
  }
  return absl::OkStatus();
}

// Divides the frequencies by the factors of the tensor rope_freqs.weight, which is how converters
// write llama3 scaling.
absl::Status ApplyFactors(const GgufFile& file, ModelConfig& model) {
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"}) {
    if (file.tensors().contains(name)) {
      return Refuse(file, absl::StrCat("tensor ", name, ": kvship has no longrope scaling"));
    }
  }
  const auto found = file.tensors().find("rope_freqs.weight");
  if (found == file.tensors().end()) return absl::OkStatus();
  const FileTensor& tensor = found->second;
  if (tensor.format != WeightFormat::kF32 ||
      tensor.shape != std::vector<size_t>{model.rope_frequencies.size()}) {
    return Bad(file, absl::StrCat("tensor rope_freqs.weight is not F32 of [",
                                  model.rope_frequencies.size(), "], half of a head"));
  }
  for (size_t i = 0; i < model.rope_frequencies.size(); ++i) {
    float factor = 0;
    std::memcpy(&factor, tensor.bytes.data() + i * sizeof(factor), sizeof(factor));
    if (!std::isfinite(factor) || factor <= 0) {
      return Bad(file, absl::StrCat("tensor rope_freqs.weight[", i, "] is ", factor,
                                    "; wanted a finite number above 0"));
    }
    model.rope_frequencies[i] /= factor;
  }
  return absl::OkStatus();
}

absl::Status ReadYarnScaling(const GgufFile& file, const ModelConfig& model, RopeScaling& out) {
  const std::string extrapolation = Key(model, "rope.scaling.yarn_ext_factor");
  ASSIGN_OR_RETURN(const auto share, file.Number(extrapolation));
  if (share.value_or(1) != 1) {
    return Refuse(file, absl::StrCat("metadata ", extrapolation, " is ", *share, "; wanted 1"));
  }
  const std::string log_multiplier = Key(model, "rope.scaling.yarn_log_multiplier");
  if (file.Has(log_multiplier)) {
    return Refuse(file, absl::StrCat("metadata ", log_multiplier, " is there; wanted none"));
  }
  ASSIGN_OR_RETURN(const auto slow, file.Number(Key(model, "rope.scaling.yarn_beta_slow")));
  ASSIGN_OR_RETURN(const auto fast, file.Number(Key(model, "rope.scaling.yarn_beta_fast")));
  ASSIGN_OR_RETURN(const auto original,
                   file.Count(Key(model, "rope.scaling.original_context_length")));
  ASSIGN_OR_RETURN(const auto times, file.Number(Key(model, "rope.scaling.attn_factor")));
  out.kind = RopeScaling::Kind::kYarn;
  out.beta_slow = slow.value_or(out.beta_slow);
  out.beta_fast = fast.value_or(out.beta_fast);
  out.original_context_tokens = static_cast<double>(original.value_or(model.context_tokens));
  // Here it is what comes on top.
  if (times.has_value()) out.attention_factor = RopeAttentionFactor(out) * *times;
  return absl::OkStatus();
}

// What else multiplies attention. Of the two keys llama.cpp takes the first without yarn, too;
// converters write a checkpoint's attention_factor, or its attn_factor, as the second, and with
// yarn llama.cpp leaves that out.
absl::Status RefuseAttentionFactors(const GgufFile& file, const ModelConfig& model,
                                    const RopeScaling& scaling) {
  const std::string on_top = Key(model, "rope.scaling.attn_factor");
  ASSIGN_OR_RETURN(const auto times, file.Number(on_top));
  if (scaling.kind != RopeScaling::Kind::kYarn && times.value_or(1) != 1) {
    return Refuse(file,
                  absl::StrCat("metadata ", on_top, " is ", *times, "; wanted 1 without yarn"));
  }
  const std::string whole = Key(model, "rope.scaling.yarn_attn_factor");
  ASSIGN_OR_RETURN(const auto factor, file.Number(whole));
  const double wanted = RopeAttentionFactor(scaling);
  constexpr double kRounding = 1e-5;  // of a float, and of what people write
  if (!factor.has_value() || std::abs(*factor - wanted) < kRounding) return absl::OkStatus();
  return Refuse(file, absl::StrCat("metadata ", whole, " is ", *factor, "; wanted none, or ",
                                   wanted, ", which follows from the other keys"));
}

absl::Status ReadRope(const GgufFile& file, ModelConfig& model) {
  ASSIGN_OR_RETURN(const auto rotary_dim, file.Count(Key(model, "rope.dimension_count")));
  if (rotary_dim.value_or(model.head_dim) != model.head_dim) {
    return Refuse(file, absl::StrCat("metadata ", Key(model, "rope.dimension_count"), " is ",
                                     *rotary_dim, "; wanted the head's ", model.head_dim));
  }
  RopeScaling scaling;
  ASSIGN_OR_RETURN(const auto theta, file.Number(Key(model, "rope.freq_base")));
  if (theta.has_value()) scaling.theta = *theta;
  ASSIGN_OR_RETURN(const auto type, file.Text(Key(model, "rope.scaling.type")));
  if (type.has_value() && *type != "none" && *type != "linear" && *type != "yarn") {
    return Refuse(file, absl::StrCat("metadata ", Key(model, "rope.scaling.type"), " is ", *type,
                                     "; wanted none, linear or yarn"));
  }
  // A factor without a type is linear: files older than the type have it so, the oldest under
  // another name.
  ASSIGN_OR_RETURN(auto factor, file.Number(Key(model, "rope.scaling.factor")));
  if (!factor.has_value()) {
    ASSIGN_OR_RETURN(factor, file.Number(Key(model, "rope.scale_linear")));
  }
  if (factor.has_value() && *factor != 0 && type.value_or("linear") != "none") {
    scaling.kind = RopeScaling::Kind::kLinear;
    scaling.factor = *factor;
  }
  if (type.value_or("none") == "yarn") {
    if (scaling.kind != RopeScaling::Kind::kLinear) {
      return Bad(file, absl::StrCat("metadata ", Key(model, "rope.scaling.factor"),
                                    " is 0 or missing; wanted a number above 0 for yarn"));
    }
    RETURN_IF_ERROR(ReadYarnScaling(file, model, scaling));
  }
  RETURN_IF_ERROR(RefuseAttentionFactors(file, model, scaling));
  const absl::Status scaled = SetRope(scaling, model);
  if (!scaled.ok()) return Bad(file, scaled.message());
  // Converters permute the rows of Q and K for llama alone.
  model.rope_pairs = model.architecture == "llama" ? RopePairs::kAdjacent : RopePairs::kHalves;
  return ApplyFactors(file, model);
}

absl::Status ReadTokens(const GgufFile& file, ModelConfig& model) {
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    ASSIGN_OR_RETURN(const auto token, file.Count(key));
    if (!token.has_value()) continue;
    if (*token >= model.vocab_tokens) {
      return Bad(file, absl::StrCat("metadata ", key, " is ", *token, "; wanted 0 to ",
                                    model.vocab_tokens - 1));
    }
    const auto id = static_cast<int32_t>(*token);
    if (std::find(model.end_tokens.begin(), model.end_tokens.end(), id) == model.end_tokens.end()) {
      model.end_tokens.push_back(id);
    }
  }
  ASSIGN_OR_RETURN(const auto begin, file.Count("tokenizer.ggml.bos_token_id"));
  if (!begin.has_value()) return absl::OkStatus();
  if (*begin >= model.vocab_tokens) {
    return Bad(file, absl::StrCat("metadata tokenizer.ggml.bos_token_id is ", *begin,
                                  "; wanted 0 to ", model.vocab_tokens - 1));
  }
  model.begin_token = static_cast<int32_t>(*begin);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ReadGgufConfig(const GgufFile& file) {
  ASSIGN_OR_RETURN(const absl::string_view architecture, file.RequiredText("general.architecture"));
  if (architecture != "llama" && architecture != "qwen2" && architecture != "qwen3" &&
      architecture != "qwen3moe") {
    return Refuse(file, absl::StrCat("metadata general.architecture is ", architecture,
                                     "; wanted llama, qwen2, qwen3 or qwen3moe"));
  }
  ModelConfig model;
  model.architecture = std::string(architecture);
  ASSIGN_OR_RETURN(const auto name, file.Text("general.name"));
  if (name.has_value()) model.name = ReplaceInvalidUtf8(*name);
  RETURN_IF_ERROR(ReadShape(file, model));
  RETURN_IF_ERROR(ReadExperts(file, model));
  RETURN_IF_ERROR(RefuseOptions(file, model));
  RETURN_IF_ERROR(ReadRope(file, model));
  RETURN_IF_ERROR(ReadTokens(file, model));
  const absl::Status valid = model.Validate();
  if (!valid.ok()) return Bad(file, valid.message());
  return model;
}

}  // namespace kvship
