// The golden mixtures of experts as GGUF files, in the forms that such files have.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/float16.h"
#include "engine/safetensors.h"
#include "engine/transformer.h"
#include "tests/engine/model_files.h"

namespace kvship {

// Blocks of 32 weights, each with a half as its scale.
inline std::string Q8Blocks(const std::string& floats) {
  std::string out;
  float block[32];
  for (size_t at = 0; at < floats.size(); at += sizeof(block)) {
    std::memcpy(block, floats.data() + at, sizeof(block));
    float most = 0;
    for (const float x : block) most = std::max(most, std::abs(x));
    const f16 scale = ToF16(most / 127);
    out += BytesOf(scale.bits);
    for (const float x : block) {
      out += static_cast<char>(most == 0 ? 0 : std::lround(x / ToFloat(scale)));
    }
  }
  return out;
}

class MixtureGguf {
 public:
  enum class Experts { kStacked, kFused, kSingle };

  // Of the golden model `name`, "mixtral" or "qwen3moe". Matrices have `format`: F32 or Q8_0.
  explicit MixtureGguf(const std::string& name, Experts experts = Experts::kStacked,
                       uint32_t format = kGgufF32)
      : architecture_(name == "mixtral" ? "llama" : name),
        format_(format),
        config_(nlohmann::json::parse(ReadBytes(Folder(name) + "/config.json"))),
        files_(*ReadSafetensorsDirectory(Folder(name))) {
    WriteConfig();
    Matrix("token_embd", "model.embed_tokens");
    Vector("output_norm", "model.norm");
    Matrix("output", "lm_head");
    for (size_t layer = 0; layer < Count("num_hidden_layers"); ++layer) {
      WriteLayer(layer);
      WriteExperts(layer, experts);
    }
  }

  GgufWriter& gguf() { return gguf_; }
  const std::string& architecture() const { return architecture_; }

  std::unique_ptr<const Transformer> Load() const {
    const TempFolder folder;
    auto model = LoadTransformer(folder.Write("model.gguf", gguf_.Bytes()));
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }

 private:
  static std::string Folder(const std::string& name) {
    return absl::StrCat(KVSHIP_GOLDENS "/models/", name);
  }
  uint32_t Count(const char* field) const { return config_.at(field); }
  const FileTensor& Tensor(const std::string& name) const {
    return files_.tensors.at(name + ".weight");
  }
  static std::string Bytes(const FileTensor& tensor) {
    return {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()};
  }

  void WriteConfig() {
    const auto key = [&](const char* name) { return architecture_ + "." + name; };
    gguf_.Name("general.architecture", architecture_)
        .Count(key("block_count"), Count("num_hidden_layers"))
        .Count(key("context_length"), Count("max_position_embeddings"))
        .Count(key("embedding_length"), Count("hidden_size"))
        .Count(key("feed_forward_length"), Count("intermediate_size"))
        .Count(key("attention.head_count"), Count("num_attention_heads"))
        .Count(key("attention.head_count_kv"), Count("num_key_value_heads"))
        .Number(key("rope.freq_base"), config_.at("rope_parameters").at("rope_theta"))
        .Number(key("attention.layer_norm_rms_epsilon"), config_.at("rms_norm_eps"))
        .Count(key("expert_count"), Count("num_local_experts"))
        .Count(key("expert_used_count"), Count("num_experts_per_tok"));
    if (architecture_ != "qwen3moe") return;
    gguf_.Count(key("attention.key_length"), Count("head_dim"))
        .Count(key("expert_feed_forward_length"), Count("moe_intermediate_size"));
  }

  void WriteLayer(size_t layer) {
    const std::string to = absl::StrCat("blk.", layer, ".");
    const std::string from = absl::StrCat("model.layers.", layer, ".");
    Vector(to + "attn_norm", from + "input_layernorm");
    Vector(to + "ffn_norm", from + "post_attention_layernorm");
    Heads(to + "attn_q", from + "self_attn.q_proj", Count("num_attention_heads"));
    Heads(to + "attn_k", from + "self_attn.k_proj", Count("num_key_value_heads"));
    Matrix(to + "attn_v", from + "self_attn.v_proj");
    Matrix(to + "attn_output", from + "self_attn.o_proj");
    const bool is_qwen = architecture_ == "qwen3moe";
    if (is_qwen) {
      Vector(to + "attn_q_norm", from + "self_attn.q_norm");
      Vector(to + "attn_k_norm", from + "self_attn.k_norm");
    }
  }

  void WriteExperts(size_t layer, Experts experts) {
    const std::string to = absl::StrCat("blk.", layer, ".");
    const bool is_qwen = architecture_ == "qwen3moe";
    const std::string mixture =
        absl::StrCat("model.layers.", layer, is_qwen ? ".mlp." : ".block_sparse_moe.");
    const std::string gate = is_qwen ? "gate_proj" : "w1", up = is_qwen ? "up_proj" : "w3";
    const std::string down = is_qwen ? "down_proj" : "w2";
    // Routers stay floats in quantized files, too.
    Add(to + "ffn_gate_inp", Tensor(mixture + "gate").shape, Bytes(Tensor(mixture + "gate")),
        kGgufF32);
    if (experts == Experts::kFused) {
      Stacked(to + "ffn_gate_up_exps", mixture, {gate, up});
    } else {
      OfExperts(to + "ffn_gate", mixture, gate, experts);
      OfExperts(to + "ffn_up", mixture, up, experts);
    }
    OfExperts(to + "ffn_down", mixture, down, experts);
  }

  const FileTensor& Expert(const std::string& mixture, size_t i, const std::string& theirs) const {
    return Tensor(absl::StrCat(mixture, "experts.", i, ".", theirs));
  }
  void OfExperts(const std::string& name, const std::string& mixture, const std::string& theirs,
                 Experts experts) {
    if (experts != Experts::kSingle) return Stacked(name + "_exps", mixture, {theirs});
    for (size_t i = 0; i < Count("num_local_experts"); ++i) {
      const FileTensor& one = Expert(mixture, i, theirs);
      Add(absl::StrCat(name, ".", i), one.shape, Bytes(one), format_);
    }
  }
  // All experts in one tensor, of each the rows of these matrices.
  void Stacked(const std::string& name, const std::string& mixture,
               const std::vector<std::string>& theirs) {
    const size_t count = Count("num_local_experts");
    std::string all;
    std::vector<size_t> shape = Expert(mixture, 0, theirs[0]).shape;
    for (size_t i = 0; i < count; ++i) {
      for (const std::string& matrix : theirs) all += Bytes(Expert(mixture, i, matrix));
    }
    Add(name, {count, theirs.size() * shape[0], shape[1]}, all, format_);
  }

  void Add(const std::string& name, const std::vector<size_t>& shape, const std::string& floats,
           uint32_t format) {
    gguf_.Tensor(name + ".weight", {shape.rbegin(), shape.rend()}, format,
                 format == kGgufF32 ? floats : Q8Blocks(floats));
  }
  void Vector(const std::string& name, const std::string& theirs) {
    Add(name, Tensor(theirs).shape, Bytes(Tensor(theirs)), kGgufF32);
  }
  void Matrix(const std::string& name, const std::string& theirs) {
    Add(name, Tensor(theirs).shape, Bytes(Tensor(theirs)), format_);
  }
  // Llama's rows lie so that those which turn together are neighbours.
  void Heads(const std::string& name, const std::string& theirs, size_t num_heads) {
    const FileTensor& tensor = Tensor(theirs);
    const std::string rows = Bytes(tensor);
    const size_t row_bytes = tensor.shape[1] * sizeof(float), d = tensor.shape[0] / num_heads;
    std::string moved;
    for (size_t row = 0; row < tensor.shape[0]; ++row) {
      const size_t in_head = row % d;
      const size_t from = architecture_ == "llama"
                              ? row - in_head + in_head / 2 + (in_head % 2 == 0 ? 0 : d / 2)
                              : row;
      moved += rows.substr(from * row_bytes, row_bytes);
    }
    Add(name, tensor.shape, moved, format_);
  }

  const std::string architecture_;
  const uint32_t format_;
  const nlohmann::json config_;
  const SafetensorsFiles files_;
  GgufWriter gguf_;
};

// A golden model by its name or, with "_q8" behind it, a mixture among them in Q8_0.
inline std::unique_ptr<const Transformer> TinyModelOf(const std::string& name) {
  if (const size_t end = name.find("_q8"); end != std::string::npos) {
    return MixtureGguf(name.substr(0, end), MixtureGguf::Experts::kStacked, kGgufQ8_0).Load();
  }
  return *LoadTransformer(absl::StrCat(KVSHIP_GOLDENS "/models/", name));
}

}  // namespace kvship
