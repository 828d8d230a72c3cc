#include "engine/hf_config.h"

#include <algorithm>
#include <filesystem>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "engine/json_file.h"
#include "engine/rope_scaling.h"

namespace kvship {
namespace {

using nlohmann::json;

absl::StatusOr<std::string> ReadArchitecture(const JsonObject& config) {
  const json* list = config.Find("architectures");
  if (list == nullptr || !list->is_array() || list->size() != 1 || !list->front().is_string()) {
    return config.Bad("architectures", "is not a list of one name");
  }
  const std::string& name = list->front().get_ref<const std::string&>();
  if (name == "LlamaForCausalLM") return std::string("llama");
  if (name == "MistralForCausalLM") return std::string("mistral");
  if (name == "MixtralForCausalLM") return std::string("mixtral");
  if (name == "Qwen2ForCausalLM") return std::string("qwen2");
  if (name == "Qwen3ForCausalLM") return std::string("qwen3");
  if (name == "Qwen3MoeForCausalLM") return std::string("qwen3moe");
  return config.Unimplemented(
      "architectures", absl::StrCat("is ", name,
                                    "; wanted LlamaForCausalLM, MistralForCausalLM, "
                                    "MixtralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM or "
                                    "Qwen3MoeForCausalLM"));
}

// Qwen3-MoE may have dense layers between its mixtures.
absl::Status RefuseDenseLayers(const JsonObject& config) {
  ASSIGN_OR_RETURN(const std::optional<uint64_t> step, config.Count("decoder_sparse_step"));
  if (step.value_or(1) != 1) {
    return config.Unimplemented("decoder_sparse_step", absl::StrCat("is ", *step, "; wanted 1"));
  }
  const json* dense = config.Find("mlp_only_layers");
  if (dense != nullptr && !dense->is_array()) return config.Bad("mlp_only_layers", "is not a list");
  if (dense != nullptr && !dense->empty()) {
    return config.Unimplemented(
        "mlp_only_layers", absl::StrCat("is a list of ", dense->size(), "; wanted an empty one"));
  }
  return absl::OkStatus();
}

// Of an architecture that is a mixture of experts.
absl::Status ReadExperts(const JsonObject& config, ModelConfig& model) {
  const bool is_qwen = model.architecture == "qwen3moe";
  if (!is_qwen && model.architecture != "mixtral") return absl::OkStatus();
  // transformers 5 writes Qwen's number under Mixtral's name.
  const bool is_local = !is_qwen || config.Find("num_local_experts") != nullptr;
  const char* const count = is_local ? "num_local_experts" : "num_experts";
  ASSIGN_OR_RETURN(model.num_experts, config.RequiredCount(count));
  if (model.num_experts == 0) return config.Bad(count, "is 0; wanted at least 1");
  ASSIGN_OR_RETURN(model.experts_per_token, config.RequiredCount("num_experts_per_tok"));
  model.normalizes_expert_weights = true;
  if (!is_qwen) return absl::OkStatus();
  RETURN_IF_ERROR(RefuseDenseLayers(config));
  ASSIGN_OR_RETURN(model.ffn_dim, config.RequiredCount("moe_intermediate_size"));
  ASSIGN_OR_RETURN(const std::optional<bool> normalizes, config.Flag("norm_topk_prob"));
  model.normalizes_expert_weights =
      normalizes.value_or(false);  // transformers' default, but for Mixtral, whose files say it
  return absl::OkStatus();
}

// A window in which tokens see each other. In transformers Qwen's have one only where a switch says
// so, Mistral's has no switch, and both have one of 4096 where the field is missing, not null.
absl::Status RefuseWindow(const JsonObject& config, const ModelConfig& model) {
  constexpr uint64_t kMissingWindow = 4096;
  const bool is_qwen = absl::StartsWith(model.architecture, "qwen");
  const bool is_mistral = model.architecture == "mistral";
  ASSIGN_OR_RETURN(const std::optional<bool> uses_window, config.Flag("use_sliding_window"));
  if (!is_mistral && !uses_window.value_or(!is_qwen)) return absl::OkStatus();
  ASSIGN_OR_RETURN(std::optional<uint64_t> window, config.Count("sliding_window"));
  const bool is_missing = !config.fields().contains("sliding_window");
  if (is_missing && (is_qwen || is_mistral)) window = kMissingWindow;
  if (!window.has_value() || *window >= model.context_tokens) return absl::OkStatus();
  return config.Unimplemented(
      "sliding_window",
      absl::StrCat("is ", is_missing ? "missing, which is " : "", *window,
                   "; wanted null, or at least the context's ", model.context_tokens, " tokens"));
}

// What would change the computation and kvship does not do.
absl::Status RefuseOptions(const JsonObject& config) {
  for (const char* field : {"attention_bias", "mlp_bias"}) {
    ASSIGN_OR_RETURN(const std::optional<bool> bias, config.Flag(field));
    if (bias.value_or(false)) return config.Unimplemented(field, "is true; wanted false");
  }
  ASSIGN_OR_RETURN(const std::optional<std::string> activation, config.Text("hidden_act"));
  if (activation.value_or("silu") != "silu") {
    return config.Unimplemented("hidden_act", absl::StrCat("is ", *activation, "; wanted silu"));
  }
  if (config.Find("quantization_config") != nullptr) {
    return config.Unimplemented("quantization_config", "is there; wanted plain weights");
  }
  ASSIGN_OR_RETURN(const std::optional<double> partial, config.Number("partial_rotary_factor"));
  if (partial.value_or(1) != 1) {
    return config.Unimplemented("partial_rotary_factor",
                                absl::StrCat("is ", *partial, "; wanted 1"));
  }
  return absl::OkStatus();
}

// How many tokens the model was first trained with. It may stand beside what stretches them, too.
absl::StatusOr<double> ReadOriginalContext(const JsonObject& config, const JsonObject& rope,
                                           const ModelConfig& model) {
  constexpr char kField[] = "original_max_position_embeddings";
  ASSIGN_OR_RETURN(const auto outer, config.Count(kField));
  ASSIGN_OR_RETURN(const auto inner, rope.Number(kField));
  if (outer.has_value() && inner.has_value() && *inner != static_cast<double>(*outer)) {
    return rope.Bad(kField, absl::StrCat("is ", *inner, "; wanted ", *outer,
                                         ", as the configuration's own ", kField, " is"));
  }
  return inner.value_or(static_cast<double>(outer.value_or(model.context_tokens)));
}

absl::Status ReadLlama3Scaling(const JsonObject& rope, RopeScaling& out) {
  ASSIGN_OR_RETURN(const auto low, rope.Number("low_freq_factor"));
  if (!low.has_value()) return rope.Bad("low_freq_factor", "is missing; wanted a number");
  ASSIGN_OR_RETURN(const auto high, rope.Number("high_freq_factor"));
  if (!high.has_value()) return rope.Bad("high_freq_factor", "is missing; wanted a number");
  out.kind = RopeScaling::Kind::kLlama3;
  out.low_frequency_factor = *low;
  out.high_frequency_factor = *high;
  return absl::OkStatus();
}

absl::Status ReadYarnScaling(const JsonObject& rope, RopeScaling& out) {
  ASSIGN_OR_RETURN(const std::optional<bool> truncate, rope.Flag("truncate"));
  if (!truncate.value_or(true)) {
    return rope.Unimplemented("truncate", "is false; wanted true");
  }
  if (rope.Find("mscale_all_dim") != nullptr) {
    return rope.Unimplemented("mscale_all_dim", "is there; wanted attention_factor, or neither");
  }
  ASSIGN_OR_RETURN(const auto slow, rope.Number("beta_slow"));
  ASSIGN_OR_RETURN(const auto fast, rope.Number("beta_fast"));
  out.kind = RopeScaling::Kind::kYarn;
  out.beta_slow = slow.value_or(out.beta_slow);
  out.beta_fast = fast.value_or(out.beta_fast);
  ASSIGN_OR_RETURN(out.attention_factor, rope.Number("attention_factor"));
  ASSIGN_OR_RETURN(const auto times, rope.Number("attn_factor"));
  if (!times.has_value()) return absl::OkStatus();
  if (out.attention_factor.has_value()) {
    return rope.Bad("attn_factor", "is there beside attention_factor; wanted one of them");
  }
  // What comes on top, as in vLLM; transformers does not know it. DeepSeek-R1-0528-Qwen3-8B takes
  // the default back with it.
  out.attention_factor = RopeAttentionFactor(out) * *times;
  return absl::OkStatus();
}

// transformers 5 has everything in rope_parameters; before, rope_theta stood beside rope_scaling,
// whose rope_type was at first called type.
absl::StatusOr<RopeScaling> ReadRope(const JsonObject& config, const ModelConfig& model) {
  RopeScaling scaling;
  if (model.architecture == "mixtral") scaling.theta = 1e6;  // transformers' default
  ASSIGN_OR_RETURN(const std::optional<double> theta, config.Number("rope_theta"));
  if (theta.has_value()) scaling.theta = *theta;
  ASSIGN_OR_RETURN(std::optional<JsonObject> rope, config.Object("rope_parameters"));
  ASSIGN_OR_RETURN(const std::optional<JsonObject> old, config.Object("rope_scaling"));
  if (rope.has_value() && old.has_value() && rope->fields() != old->fields()) {
    return config.Bad("rope_scaling", "is there beside other rope_parameters; wanted one of them");
  }
  const bool is_old = !rope.has_value();
  if (is_old) rope = old;
  if (!rope.has_value()) return scaling;

  ASSIGN_OR_RETURN(const std::optional<double> inner_theta, rope->Number("rope_theta"));
  if (inner_theta.has_value()) scaling.theta = *inner_theta;
  ASSIGN_OR_RETURN(const std::optional<double> partial, rope->Number("partial_rotary_factor"));
  if (partial.value_or(1) != 1) {
    return rope->Unimplemented("partial_rotary_factor",
                               absl::StrCat("is ", *partial, "; wanted 1"));
  }
  ASSIGN_OR_RETURN(std::optional<std::string> type, rope->Text("rope_type"));
  if (!type.has_value()) {
    ASSIGN_OR_RETURN(type, rope->Text("type"));
  }
  ASSIGN_OR_RETURN(const std::optional<double> factor, rope->Number("factor"));
  if (!type.has_value() && (is_old || factor.has_value())) {
    return rope->Bad("rope_type", "is missing; wanted a name");
  }
  if (type.value_or("default") == "default") return scaling;
  if (*type != "linear" && *type != "llama3" && *type != "yarn") {
    return rope->Unimplemented(
        "rope_type", absl::StrCat("is ", *type, "; wanted default, linear, llama3 or yarn"));
  }
  if (!factor.has_value()) return rope->Bad("factor", "is missing; wanted a number");
  scaling.factor = *factor;
  scaling.kind = RopeScaling::Kind::kLinear;
  if (*type == "linear") return scaling;
  ASSIGN_OR_RETURN(scaling.original_context_tokens, ReadOriginalContext(config, *rope, model));
  RETURN_IF_ERROR(*type == "llama3" ? ReadLlama3Scaling(*rope, scaling)
                                    : ReadYarnScaling(*rope, scaling));
  return scaling;
}

// Adds the ids of a field that holds one id or a list of them.
absl::Status AddEndTokens(const JsonObject& config, std::vector<int32_t>& end_tokens) {
  const json* value = config.Find("eos_token_id");
  if (value == nullptr) return absl::OkStatus();
  const auto add = [&](const json& token) {
    if (!token.is_number_unsigned() || token.get<uint64_t>() > INT32_MAX) {
      return config.Bad("eos_token_id", "is not a token id or a list of them");
    }
    const int32_t id = token.get<int32_t>();
    if (std::find(end_tokens.begin(), end_tokens.end(), id) == end_tokens.end()) {
      end_tokens.push_back(id);
    }
    return absl::OkStatus();
  };
  if (!value->is_array()) return add(*value);
  for (const json& token : *value) RETURN_IF_ERROR(add(token));
  return absl::OkStatus();
}

absl::Status ReadTokens(const std::string& directory, const JsonObject& config,
                        ModelConfig& model) {
  ASSIGN_OR_RETURN(const std::optional<uint64_t> begin, config.Count("bos_token_id"));
  if (begin.has_value()) {
    if (*begin > INT32_MAX) return config.Bad("bos_token_id", "is not a token id");
    model.begin_token = static_cast<int32_t>(*begin);
  }
  RETURN_IF_ERROR(AddEndTokens(config, model.end_tokens));
  const auto generation = ReadJsonFile(absl::StrCat(directory, "/generation_config.json"));
  if (absl::IsNotFound(generation.status())) return absl::OkStatus();
  RETURN_IF_ERROR(generation.status());
  return AddEndTokens(JsonObject(*generation), model.end_tokens);
}

absl::Status ReadShape(const JsonObject& config, ModelConfig& model) {
  ASSIGN_OR_RETURN(model.num_layers, config.RequiredCount("num_hidden_layers"));
  ASSIGN_OR_RETURN(model.hidden_dim, config.RequiredCount("hidden_size"));
  ASSIGN_OR_RETURN(model.ffn_dim, config.RequiredCount("intermediate_size"));
  ASSIGN_OR_RETURN(model.vocab_tokens, config.RequiredCount("vocab_size"));
  ASSIGN_OR_RETURN(model.context_tokens, config.RequiredCount("max_position_embeddings"));
  ASSIGN_OR_RETURN(model.num_query_heads, config.RequiredCount("num_attention_heads"));
  if (model.num_query_heads == 0) {
    return config.Bad("num_attention_heads", "is 0; wanted at least 1");
  }
  ASSIGN_OR_RETURN(const auto kv_heads, config.Count("num_key_value_heads"));
  model.num_kv_heads = kv_heads.value_or(model.num_query_heads);
  ASSIGN_OR_RETURN(const auto head_dim, config.Count("head_dim"));
  if (!head_dim.has_value() && model.hidden_dim % model.num_query_heads != 0) {
    return config.Bad("hidden_size", absl::StrCat("is ", model.hidden_dim,
                                                  "; wanted a multiple of num_attention_heads, ",
                                                  model.num_query_heads));
  }
  model.head_dim = head_dim.value_or(model.hidden_dim / model.num_query_heads);
  if (model.has_query_key_norm() && !head_dim.has_value()) {
    return config.Bad("head_dim", "is missing; wanted the size of a head");
  }
  ASSIGN_OR_RETURN(const auto epsilon, config.Number("rms_norm_eps"));
  const double missing_epsilon = model.architecture == "mixtral" ? 1e-5 : 1e-6;  // transformers'
  model.norm_epsilon = static_cast<float>(epsilon.value_or(missing_epsilon));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HfConfig> ReadHfConfig(const std::string& directory) {
  ASSIGN_OR_RETURN(const JsonFile file, ReadJsonFile(absl::StrCat(directory, "/config.json")));
  const JsonObject config(file);
  HfConfig out;
  ModelConfig& model = out.model;
  ASSIGN_OR_RETURN(model.architecture, ReadArchitecture(config));
  std::error_code unknown;
  auto path = std::filesystem::absolute(directory, unknown).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // it ended with a slash, or a dot
  model.name = ReplaceInvalidUtf8(path.filename().string());
  RETURN_IF_ERROR(ReadShape(config, model));
  RETURN_IF_ERROR(ReadExperts(config, model));
  RETURN_IF_ERROR(RefuseOptions(config));
  ASSIGN_OR_RETURN(const RopeScaling rope, ReadRope(config, model));
  const absl::Status scaled = SetRope(rope, model);
  if (!scaled.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(file.path, ": ", scaled.message()));
  }
  RETURN_IF_ERROR(RefuseWindow(config, model));  // the context may have been stretched
  model.rope_pairs = RopePairs::kHalves;
  RETURN_IF_ERROR(ReadTokens(directory, config, model));
  ASSIGN_OR_RETURN(const std::optional<bool> tied, config.Flag("tie_word_embeddings"));
  out.tied_embeddings = tied.value_or(false);
  const absl::Status valid = model.Validate();
  if (!valid.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(file.path, ": ", valid.message()));
  }
  return out;
}

}  // namespace kvship
