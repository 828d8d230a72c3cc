#include "engine/weight_source.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/crc32c.h"
#include "base/float16.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

std::string ShapeText(const std::vector<size_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// What a kernel may assume of a matrix's address. Blocks of quantized weights begin with 2-byte
// scales; float rows are read as floats.
size_t AlignmentOf(WeightFormat format) { return format == WeightFormat::kF32 ? 4 : 2; }

float FloatAt(const FileTensor& tensor, size_t index) {
  const std::byte* data = tensor.bytes.data();
  if (tensor.format == WeightFormat::kF32) {
    float value;
    std::memcpy(&value, data + index * sizeof(value), sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data + index * sizeof(bits), sizeof(bits));
  return tensor.format == WeightFormat::kF16 ? ToFloat(f16{bits}) : ToFloat(bf16{bits});
}

// Frequencies as float: libraries of two machines may differ in the last bit of a double.
std::string ConfigText(const ModelConfig& config) {
  std::string text = absl::StrCat(
      "kvship model 1\n", config.architecture, " ", config.num_layers, " ", config.hidden_dim, " ",
      config.num_query_heads, " ", config.num_kv_heads, " ", config.head_dim, " ", config.ffn_dim,
      " ", config.vocab_tokens, " ", config.context_tokens, " ",
      config.rope_pairs == RopePairs::kHalves ? "halves" : "adjacent", "\n");
  if (config.has_experts()) {
    absl::StrAppend(&text, "experts ", config.num_experts, " ", config.experts_per_token,
                    config.normalizes_expert_weights ? " normalized" : "", "\n");
  }
  absl::StrAppend(&text, "norm_epsilon ", absl::Hex(std::bit_cast<uint32_t>(config.norm_epsilon)),
                  "\nrope");
  for (const double frequency : config.rope_frequencies) {
    absl::StrAppend(&text, " ", absl::Hex(std::bit_cast<uint32_t>(static_cast<float>(frequency))));
  }
  if (config.rope_attention_factor != 1) {
    absl::StrAppend(
        &text, " times ",
        absl::Hex(std::bit_cast<uint32_t>(static_cast<float>(config.rope_attention_factor))));
  }
  absl::StrAppend(&text, "\ntokens ", config.begin_token, " ",
                  absl::StrJoin(config.end_tokens, " "), "\n");
  return text;
}

}  // namespace

absl::StatusOr<const FileTensor*> WeightSource::Find(const std::string& name,
                                                     const std::vector<size_t>& shape) {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where_, ": tensor ", name, " is missing; wanted one of ", ShapeText(shape)));
  }
  const FileTensor& tensor = found->second;
  if (tensor.shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": tensor ", name, " has shape ",
                                                   ShapeText(tensor.shape),
                                                   "; the configuration wants ", ShapeText(shape)));
  }
  used_.insert(name);
  return &tensor;
}

// The tensor's bytes, copied where they lie unaligned.
const std::byte* WeightSource::Aligned(const FileTensor& tensor) {
  const std::byte* data = tensor.bytes.data();
  if (reinterpret_cast<uintptr_t>(data) % AlignmentOf(tensor.format) == 0) return data;
  Buffer& copy = converted_.emplace_back(tensor.bytes.size());
  std::memcpy(copy.data(), data, tensor.bytes.size());
  return copy.data();
}

absl::StatusOr<WeightView> WeightSource::Matrix(const std::string& name, size_t rows, size_t cols) {
  ASSIGN_OR_RETURN(const FileTensor* tensor, Find(name, {rows, cols}));
  return WeightView{Aligned(*tensor), tensor->format, rows, cols};
}

absl::StatusOr<std::vector<WeightView>> WeightSource::Matrices(const std::string& name,
                                                               size_t count, size_t rows,
                                                               size_t cols) {
  ASSIGN_OR_RETURN(const FileTensor* tensor, Find(name, {count, rows, cols}));
  // Rows of every format are multiples of its alignment, so that no matrix is worse off than the
  // first.
  WeightView matrix{Aligned(*tensor), tensor->format, rows, cols};
  std::vector<WeightView> matrices;
  for (size_t i = 0; i < count; ++i, matrix.data += matrix.num_bytes()) matrices.push_back(matrix);
  return matrices;
}

absl::StatusOr<std::vector<float>> WeightSource::Vector(const std::string& name, size_t num_items) {
  ASSIGN_OR_RETURN(const FileTensor* tensor, Find(name, {num_items}));
  if (tensor->format != WeightFormat::kF32 && tensor->format != WeightFormat::kF16 &&
      tensor->format != WeightFormat::kBf16) {
    return absl::UnimplementedError(absl::StrCat(tensor->file, ": tensor ", name, " has format ",
                                                 WeightFormatName(tensor->format),
                                                 "; wanted F32, F16 or BF16 for a norm"));
  }
  std::vector<float> items(num_items);
  for (size_t i = 0; i < num_items; ++i) {
    items[i] = FloatAt(*tensor, i);
    if (!std::isfinite(items[i])) {
      return absl::InvalidArgumentError(absl::StrCat(
          tensor->file, ": tensor ", name, "[", i, "] is ", items[i], "; wanted a finite number"));
    }
  }
  return items;
}

absl::Status WeightSource::IgnoreCopy(const std::string& name, const std::string& original) {
  Ignore(name);
  if (!Has(name)) return absl::OkStatus();
  const FileTensor &copy = tensors_.at(name), &of = tensors_.at(original);
  if (copy.format == of.format && std::ranges::equal(copy.bytes, of.bytes)) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(copy.file, ": tensor ", name, " differs from ", original,
                   ", to which tie_word_embeddings ties it; wanted one of them"));
}

absl::Status WeightSource::CheckAllUsed() const {
  for (const auto& [name, tensor] : tensors_) {
    if (used_.contains(name) || ignored_.contains(name)) continue;
    return absl::UnimplementedError(
        absl::StrCat(tensor.file, ": tensor ", name, " of shape ", ShapeText(tensor.shape),
                     " has no place in a llama model of this configuration"));
  }
  return absl::OkStatus();
}

Sha256Digest WeightSource::Identity(const ModelConfig& config) const {
  std::string text = ConfigText(config);
  for (const std::string& name : used_) {
    const FileTensor& tensor = tensors_.at(name);
    absl::StrAppend(&text, name, " ", WeightFormatName(tensor.format), " ", ShapeText(tensor.shape),
                    " ", absl::Hex(Crc32c(tensor.bytes), absl::kZeroPad8), "\n");
  }
  Sha256 sha;
  sha.Update(std::as_bytes(std::span(text)));
  return sha.Finish();
}

}  // namespace kvship
