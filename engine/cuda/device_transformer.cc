#include "engine/cuda/device_transformer.h"

#include <algorithm>
#include <cmath>

#include "base/status_macros.h"
#include "kernels/cuda/fill.h"
#include "kernels/product.h"

namespace kvship::cuda {
namespace {

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

// Copies weights to the device, a few rows at a time.
class Uploader {
 public:
  explicit Uploader(DType dtype) : dtype_(dtype) {}

  absl::Status Copy(const WeightView& from, const std::byte* to) {
    const size_t chunk = std::max<size_t>(1, (size_t{1} << 22) / from.cols);
    auto* target = const_cast<std::byte*>(to);
    for (size_t row = 0; row < from.rows; row += chunk) {
      const size_t rows = std::min(chunk, from.rows - row);
      floats_.resize(rows * from.cols);
      Dequantize(from, row, TensorView(floats_.data(), {rows, from.cols}));
      RETURN_IF_ERROR(Copy(floats_, target));
      target += rows * from.cols * kElementBytes;
    }
    return absl::OkStatus();
  }
  absl::Status Copy(std::span<const float> from, const std::byte* to) {
    bits_.clear();
    for (float x : from) {
      bits_.push_back(dtype_ == DType::kF16 ? ToF16(x).bits : ToBf16(x).bits);
    }
    return CudaStatus(cudaMemcpy(const_cast<std::byte*>(to), bits_.data(),
                                 bits_.size() * kElementBytes, cudaMemcpyHostToDevice),
                      "copy of weights");
  }

 private:
  const DType dtype_;
  std::vector<float> floats_;
  std::vector<uint16_t> bits_;
};

absl::Status CheckShape(const ModelConfig& config) {
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

}  // namespace

DType DeviceDTypeOf(const Transformer& model) {
  const bool is_bf16 = model.layers.front().query.format == WeightFormat::kBf16;
  return is_bf16 ? DType::kBf16 : DType::kF16;
}

absl::Status DeviceTransformer::Lay(bool tied) {
  const size_t c = config_.hidden_dim, f = config_.ffn_dim, d = config_.head_dim;
  const size_t q = config_.num_query_heads * d, kv = config_.num_kv_heads * d;
  if (dtype_ != DType::kF16 && dtype_ != DType::kBf16) {
    return absl::InvalidArgumentError("dtype: wanted f16 or bf16");
  }
  RETURN_IF_ERROR(CheckShape(config_));
  if (config_.has_query_key_norm()) {
    return absl::UnimplementedError(
        absl::StrCat("architecture ", config_.architecture, ": no QK norm on the GPU yet"));
  }
  Layout layout;
  struct Offsets {
    size_t attention_norm, qkv, output, ffn_norm, gate_up, down;
  };
  const size_t embedding = layout.Take(config_.vocab_tokens * c);
  std::vector<Offsets> offsets;
  for (size_t i = 0; i < config_.num_layers; ++i) {
    offsets.push_back({.attention_norm = layout.Take(c),
                       .qkv = layout.Take((q + 2 * kv) * c),
                       .output = layout.Take(c * q),
                       .ffn_norm = layout.Take(c),
                       .gate_up = layout.Take(2 * f * c),
                       .down = layout.Take(c * f)});
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
                       .output = base + at.output,
                       .ffn_norm = base + at.ffn_norm,
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
  Uploader uploader(dtype);
  RETURN_IF_ERROR(uploader.Copy(model.embedding, device->embedding_));
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const LayerWeights& from = model.layers[i];
    const DeviceLayerWeights& to = device->layers_[i];
    const auto bytes = [](const WeightView& w) { return w.rows * w.cols * kElementBytes; };
    RETURN_IF_ERROR(uploader.Copy(from.attention_norm, to.attention_norm));
    RETURN_IF_ERROR(uploader.Copy(from.query, to.qkv));
    RETURN_IF_ERROR(uploader.Copy(from.key, to.qkv + bytes(from.query)));
    RETURN_IF_ERROR(uploader.Copy(from.value, to.qkv + bytes(from.query) + bytes(from.key)));
    RETURN_IF_ERROR(uploader.Copy(from.output, to.output));
    RETURN_IF_ERROR(uploader.Copy(from.ffn_norm, to.ffn_norm));
    RETURN_IF_ERROR(uploader.Copy(from.gate, to.gate_up));
    RETURN_IF_ERROR(uploader.Copy(from.up, to.gate_up + bytes(from.gate)));
    RETURN_IF_ERROR(uploader.Copy(from.down, to.down));
  }
  RETURN_IF_ERROR(uploader.Copy(model.output_norm, device->output_norm_));
  if (!tied) RETURN_IF_ERROR(uploader.Copy(model.output, device->output_));
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
  const auto ones = [&](const std::byte* to) {
    return FillRandom(nullptr, dtype, const_cast<std::byte*>(to), config.hidden_dim, 1.0f, 0.0f, 0);
  };
  const size_t c = config.hidden_dim, f = config.ffn_dim, d = config.head_dim;
  RETURN_IF_ERROR(fill(device->embedding_, config.vocab_tokens, c));
  for (const DeviceLayerWeights& layer : device->layers_) {
    RETURN_IF_ERROR(ones(layer.attention_norm));
    RETURN_IF_ERROR(fill(layer.qkv, NumHeads(config) * d, c));
    RETURN_IF_ERROR(fill(layer.output, c, config.num_query_heads * d));
    RETURN_IF_ERROR(ones(layer.ffn_norm));
    RETURN_IF_ERROR(fill(layer.gate_up, 2 * f, c));
    RETURN_IF_ERROR(fill(layer.down, c, f));
  }
  RETURN_IF_ERROR(ones(device->output_norm_));
  RETURN_IF_ERROR(fill(device->output_, config.vocab_tokens, c));
  RETURN_IF_ERROR(CudaStatus(cudaDeviceSynchronize(), "random weights"));
  return device;
}

}  // namespace kvship::cuda
