#include "engine/cuda/device_transformer.h"

#include <algorithm>
#include <cmath>

#include "base/status_macros.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/fill.h"

namespace kvship::cuda {
namespace {

// Of a layer.
size_t NumFeedForwards(const ModelConfig& config) {
  return std::max<size_t>(1, config.num_experts);
}

// Hands out memory piece by piece, each aligned for the widest loads.
class Layout {
 public:
  size_t Take(size_t num_elements) {
    constexpr size_t kAlignment = 256;
    const size_t at = used_;
    used_ += (num_elements * kElementBytes + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  }
  size_t num_bytes() const { return used_; }

 private:
  size_t used_ = 0;
};

// Brings weights to the device as the file has them, block by block through a piece of its memory,
// and unpacks them there.
class Uploader {
 public:
  static absl::StatusOr<Uploader> Create(DType dtype) {
    Uploader uploader(dtype);
    ASSIGN_OR_RETURN(uploader.packed_, DeviceBuffer::Create(kPackedBytes));
    return uploader;
  }

  absl::Status Copy(const WeightView& from, const std::byte* to) {
    const WeightBlock block = BlockOf(from.format);
    const size_t most_weights = kPackedBytes / block.num_bytes * block.num_weights;
    const size_t num_weights = from.rows * from.cols;
    for (size_t first = 0; first < num_weights; first += most_weights) {
      const size_t count = std::min(most_weights, num_weights - first);
      // Copies that name no stream wait for the kernel before them, which reads the same memory.
      RETURN_IF_ERROR(CudaStatus(
          cudaMemcpy(packed_.data(), from.data + first / block.num_weights * block.num_bytes,
                     count / block.num_weights * block.num_bytes, cudaMemcpyHostToDevice),
          "copy of weights"));
      RETURN_IF_ERROR(
          Dequantize(nullptr, {.packed = packed_.data(),
                               .out = const_cast<std::byte*>(to) + first * kElementBytes,
                               .format = from.format,
                               .dtype = dtype_,
                               .num_weights = count}));
    }
    return absl::OkStatus();
  }
  absl::Status Copy(const std::vector<float>& from, const std::byte* to) {
    return Copy(WeightView{reinterpret_cast<const std::byte*>(from.data()), WeightFormat::kF32, 1,
                           from.size()},
                to);
  }

 private:
  static constexpr size_t kPackedBytes = size_t{32} << 20;  // copies at the full rate of the bus

  explicit Uploader(DType dtype) : dtype_(dtype) {}

  DType dtype_;
  DeviceBuffer packed_;
};

absl::Status CheckShape(const ModelConfig& config) {
  if (config.num_experts > kMostExperts) {
    return absl::UnimplementedError(absl::StrCat("model ", config.name, " has ", config.num_experts,
                                                 " experts; wanted at most ", kMostExperts,
                                                 " on the GPU"));
  }
  // PagedAttention's most, and what attention's kernels are made for.
  constexpr size_t kMostQueryHeads = 16;
  const size_t d = config.head_dim;
  if ((d == 64 || d == 128) && config.num_query_heads <= kMostQueryHeads * config.num_kv_heads) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(absl::StrCat(
      "model ", config.name, " has ", config.num_query_heads, " query heads of ", d, " on ",
      config.num_kv_heads, " KV heads; wanted heads of 64 or 128, and at most ", kMostQueryHeads,
      " per KV head on the GPU"));
}

absl::Status CopyLayer(Uploader& uploader, const LayerWeights& from, const DeviceLayerWeights& to) {
  const auto bytes = [](const WeightView& w) { return w.rows * w.cols * kElementBytes; };
  RETURN_IF_ERROR(uploader.Copy(from.attention_norm, to.attention_norm));
  RETURN_IF_ERROR(uploader.Copy(from.query, to.qkv));
  RETURN_IF_ERROR(uploader.Copy(from.key, to.qkv + bytes(from.query)));
  RETURN_IF_ERROR(uploader.Copy(from.value, to.qkv + bytes(from.query) + bytes(from.key)));
  if (to.qkv_bias != nullptr) RETURN_IF_ERROR(uploader.Copy(from.qkv_bias, to.qkv_bias));
  if (to.query_norm != nullptr) {
    RETURN_IF_ERROR(uploader.Copy(from.query_norm, to.query_norm));
    RETURN_IF_ERROR(uploader.Copy(from.key_norm, to.key_norm));
  }
  RETURN_IF_ERROR(uploader.Copy(from.output, to.output));
  RETURN_IF_ERROR(uploader.Copy(from.ffn_norm, to.ffn_norm));
  if (to.router != nullptr) RETURN_IF_ERROR(uploader.Copy(from.router, to.router));
  const std::byte* gate_up = to.gate_up;
  const std::byte* down = to.down;
  for (const FeedForwardWeights& ffn : from.experts) {
    RETURN_IF_ERROR(uploader.Copy(ffn.gate, gate_up));
    RETURN_IF_ERROR(uploader.Copy(ffn.up, gate_up + bytes(ffn.gate)));
    RETURN_IF_ERROR(uploader.Copy(ffn.down, down));
    gate_up += bytes(ffn.gate) + bytes(ffn.up);
    down += bytes(ffn.down);
  }
  return absl::OkStatus();
}

}  // namespace

DType DeviceDTypeOf(const Transformer& model) {
  const bool is_f16 = model.layers.front().query.format == WeightFormat::kF16;
  return is_f16 ? DType::kF16 : DType::kBf16;
}

absl::Status DeviceTransformer::Lay(bool tied) {
  const size_t c = config_.hidden_dim, f = config_.ffn_dim, d = config_.head_dim;
  const size_t q = config_.num_query_heads * d, kv = config_.num_kv_heads * d;
  const size_t bias = config_.has_query_key_value_bias() ? q + 2 * kv : 0;
  const size_t norm = config_.has_query_key_norm() ? d : 0;
  const size_t router = config_.num_experts, experts = NumFeedForwards(config_);
  if (dtype_ != DType::kF16 && dtype_ != DType::kBf16) {
    return absl::InvalidArgumentError("dtype: wanted f16 or bf16");
  }
  RETURN_IF_ERROR(CheckShape(config_));
  Layout layout;
  struct Offsets {
    size_t attention_norm, qkv, qkv_bias, query_norm, key_norm, output, ffn_norm, router, gate_up,
        down;
  };
  const size_t embedding = layout.Take(config_.vocab_tokens * c);
  std::vector<Offsets> offsets;
  for (size_t i = 0; i < config_.num_layers; ++i) {
    offsets.push_back({.attention_norm = layout.Take(c),
                       .qkv = layout.Take((q + 2 * kv) * c),
                       .qkv_bias = layout.Take(bias),
                       .query_norm = layout.Take(norm),
                       .key_norm = layout.Take(norm),
                       .output = layout.Take(c * q),
                       .ffn_norm = layout.Take(c),
                       .router = layout.Take(router * c),
                       .gate_up = layout.Take(experts * 2 * f * c),
                       .down = layout.Take(experts * c * f)});
  }
  const size_t output_norm = layout.Take(c);
  const size_t output = tied ? embedding : layout.Take(config_.vocab_tokens * c);
  ASSIGN_OR_RETURN(memory_, DeviceBuffer::Create(layout.num_bytes()));
  const std::byte* const base = memory_.data();
  embedding_ = base + embedding;
  output_norm_ = base + output_norm;
  output_ = base + output;
  for (const Offsets& at : offsets) {
    layers_.push_back({.attention_norm = base + at.attention_norm,
                       .qkv = base + at.qkv,
                       .qkv_bias = bias > 0 ? base + at.qkv_bias : nullptr,
                       .query_norm = norm > 0 ? base + at.query_norm : nullptr,
                       .key_norm = norm > 0 ? base + at.key_norm : nullptr,
                       .output = base + at.output,
                       .ffn_norm = base + at.ffn_norm,
                       .router = router > 0 ? base + at.router : nullptr,
                       .gate_up = base + at.gate_up,
                       .down = base + at.down});
  }
  const std::vector<double>& frequencies = config_.rope_frequencies;
  ASSIGN_OR_RETURN(frequencies_, DeviceBuffer::Create(frequencies.size() * sizeof(double)));
  return CudaStatus(cudaMemcpy(frequencies_.data(), frequencies.data(),
                               frequencies.size() * sizeof(double), cudaMemcpyHostToDevice),
                    "copy of RoPE frequencies");
}

absl::StatusOr<std::unique_ptr<const DeviceTransformer>> DeviceTransformer::Upload(
    const Transformer& model, DType dtype) {
  std::unique_ptr<DeviceTransformer> device(new DeviceTransformer(model.config, dtype));
  const bool tied = model.output.data == model.embedding.data;
  RETURN_IF_ERROR(device->Lay(tied));
  ASSIGN_OR_RETURN(Uploader uploader, Uploader::Create(dtype));
  RETURN_IF_ERROR(uploader.Copy(model.embedding, device->embedding_));
  for (size_t i = 0; i < model.layers.size(); ++i) {
    RETURN_IF_ERROR(CopyLayer(uploader, model.layers[i], device->layers_[i]));
  }
  RETURN_IF_ERROR(uploader.Copy(model.output_norm, device->output_norm_));
  if (!tied) RETURN_IF_ERROR(uploader.Copy(model.output, device->output_));
  RETURN_IF_ERROR(CudaStatus(cudaDeviceSynchronize(), "unpacking of weights"));
  return device;
}

absl::StatusOr<std::unique_ptr<const DeviceTransformer>> DeviceTransformer::Random(
    const ModelConfig& config, DType dtype, uint32_t seed) {
  std::unique_ptr<DeviceTransformer> device(new DeviceTransformer(config, dtype));
  RETURN_IF_ERROR(device->Lay(/*tied=*/false));
  // A product with weights of deviation 1 / sqrt(columns) keeps the size of what it is given.
  const auto fill = [&](const std::byte* to, size_t rows, size_t cols) {
    return FillRandom(nullptr, dtype, const_cast<std::byte*>(to), rows * cols, 0.0f,
                      1.0f / std::sqrt(static_cast<float>(cols)), seed++);
  };
  const auto ones = [&](const std::byte* to, size_t width) {
    return FillRandom(nullptr, dtype, const_cast<std::byte*>(to), width, 1.0f, 0.0f, 0);
  };
  const size_t c = config.hidden_dim, f = config.ffn_dim, d = config.head_dim;
  RETURN_IF_ERROR(fill(device->embedding_, config.vocab_tokens, c));
  for (const DeviceLayerWeights& layer : device->layers_) {
    RETURN_IF_ERROR(ones(layer.attention_norm, c));
    RETURN_IF_ERROR(fill(layer.qkv, NumHeads(config) * d, c));
    if (layer.qkv_bias != nullptr) {
      RETURN_IF_ERROR(FillRandom(nullptr, dtype, const_cast<std::byte*>(layer.qkv_bias),
                                 NumHeads(config) * d, 0.0f, 1.0f, seed++));
    }
    if (layer.query_norm != nullptr) {
      RETURN_IF_ERROR(ones(layer.query_norm, d));
      RETURN_IF_ERROR(ones(layer.key_norm, d));
    }
    RETURN_IF_ERROR(fill(layer.output, c, config.num_query_heads * d));
    RETURN_IF_ERROR(ones(layer.ffn_norm, c));
    if (layer.router != nullptr) RETURN_IF_ERROR(fill(layer.router, config.num_experts, c));
    RETURN_IF_ERROR(fill(layer.gate_up, NumFeedForwards(config) * 2 * f, c));
    RETURN_IF_ERROR(fill(layer.down, NumFeedForwards(config) * c, f));
  }
  RETURN_IF_ERROR(ones(device->output_norm_, c));
  RETURN_IF_ERROR(fill(device->output_, config.vocab_tokens, c));
  RETURN_IF_ERROR(CudaStatus(cudaDeviceSynchronize(), "random weights"));
  return device;
}

}  // namespace kvship::cuda
