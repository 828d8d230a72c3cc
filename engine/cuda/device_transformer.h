// DeviceTransformer is a model's weights in the memory of one GPU, in a 16-bit type; matrices that
// are multiplied together lie together. Immutable; the device it was made on must be current where
// it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/tensor_view.h"
#include "engine/transformer.h"
#include "kernels/cuda/buffer.h"

namespace kvship::cuda {

inline constexpr size_t kElementBytes = 2;  // of f16 and bf16

// Heads that the fused product of a layer yields: queries, keys, values.
inline size_t NumHeads(const ModelConfig& config) {
  return config.num_query_heads + 2 * config.num_kv_heads;
}

// One layer. C hidden, Hq and H heads of D, F feed-forward, E experts, one in dense models; all in
// device memory, of dtype.
struct DeviceLayerWeights {
  const std::byte* attention_norm = nullptr;  // [C]
  const std::byte* qkv = nullptr;             // [(Hq + 2 H) D, C]
  const std::byte* qkv_bias = nullptr;        // [(Hq + 2 H) D]; null where the model has none
  const std::byte* query_norm = nullptr;      // [D]; null where the model has no QK norm
  const std::byte* key_norm = nullptr;        // [D]; likewise
  const std::byte* output = nullptr;          // [C, Hq D]
  const std::byte* ffn_norm = nullptr;        // [C]
  const std::byte* router = nullptr;          // [E, C]; null in dense models
  const std::byte* gate_up = nullptr;         // [E, 2 F, C], each expert's gates first
  const std::byte* down = nullptr;            // [E, C, F]
};

// The type in which a GPU computes a model: f16 if its matrices are f16, else bf16, which has the
// range of floats: activations of models that were not made for f16 overflow it. Two processes with
// the same model choose the same.
DType DeviceDTypeOf(const Transformer& model);

class DeviceTransformer {
 public:
  // Uploads a file's weights, unpacked on the device and rounded to `dtype`. Unimplemented for
  // shapes that the kernels do not support; ResourceExhausted if the device has no room for them
  // and, temporarily, 32 MiB.
  static absl::StatusOr<std::unique_ptr<const DeviceTransformer>> Upload(const Transformer& model,
                                                                         DType dtype);
  // Random weights of the same shape, scaled to keep activations near 1: time and memory of a model
  // of any size can be measured without a file.
  static absl::StatusOr<std::unique_ptr<const DeviceTransformer>> Random(const ModelConfig& config,
                                                                         DType dtype,
                                                                         uint32_t seed);

  const ModelConfig& config() const { return config_; }
  DType dtype() const { return dtype_; }
  const double* rope_frequencies() const { return frequencies_.as<double>(); }  // [D / 2]
  const std::byte* embedding() const { return embedding_; }                     // [vocab, C]
  const DeviceLayerWeights& layer(size_t i) const { return layers_[i]; }
  const std::byte* output_norm() const { return output_norm_; }  // [C]
  const std::byte* output() const { return output_; }            // [vocab, C]
  size_t num_bytes() const { return memory_.num_bytes(); }

 private:
  DeviceTransformer(const ModelConfig& config, DType dtype) : config_(config), dtype_(dtype) {}
  // Allocates the memory and sets each tensor's address; `tied`: there is no output matrix of its
  // own.
  absl::Status Lay(bool tied);

  const ModelConfig config_;
  const DType dtype_;
  DeviceBuffer memory_;
  DeviceBuffer frequencies_;
  const std::byte* embedding_ = nullptr;
  std::vector<DeviceLayerWeights> layers_;
  const std::byte* output_norm_ = nullptr;
  const std::byte* output_ = nullptr;
};

}  // namespace kvship::cuda
