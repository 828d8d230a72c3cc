// Transformer is a model's configuration and its immutable weights, borrowed from the mapped files
// it keeps open. After LoadTransformer any number of threads may read it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/buffer.h"
#include "base/mapped_file.h"
#include "base/sha256.h"
#include "engine/model_config.h"
#include "kernels/backend.h"
#include "kernels/weight_format.h"

namespace kvship {

// Shapes as rows x columns: C hidden, Hq and H heads of D, F feed-forward, E experts.
struct FeedForwardWeights {
  WeightView gate;  // [F, C]
  WeightView up;    // [F, C]
  WeightView down;  // [C, F]
};

// One layer.
struct LayerWeights {
  std::vector<float> attention_norm;        // [C]
  WeightView query;                         // [Hq D, C]
  WeightView key;                           // [H D, C]
  WeightView value;                         // [H D, C]
  std::vector<float> qkv_bias;              // [(Hq + 2 H) D]; empty where the model has none
  std::vector<float> query_norm;            // [D]; empty where the model has no QK norm
  std::vector<float> key_norm;              // [D]; likewise
  WeightView output;                        // [C, Hq D]
  std::vector<float> ffn_norm;              // [C]
  WeightView router;                        // [E, C]; without data in dense models
  std::vector<FeedForwardWeights> experts;  // E of them; one in dense models
};

struct Transformer {
  ModelConfig config;
  WeightView embedding;  // [vocab, C]
  std::vector<LayerWeights> layers;
  std::vector<float> output_norm;  // [C]
  WeightView output;               // [vocab, C]; the embedding if the model ties them

  // SHA-256 over the configuration and each tensor's name, format, shape and checksum: equal if two
  // processes would compute the same thing (WeightSource::Identity).
  Sha256Digest identity;

  std::vector<MappedFile> files;
  std::vector<Buffer> converted;  // tensors whose file format cannot be used in place
};

// The arithmetic to use for `model` if `wanted` is requested. Only weights in blocks and in bf16
// are multiplied fast: whoever keeps weights in float32 or float16 wants results of that precision.
Arithmetic ArithmeticFor(const Transformer& model, Arithmetic wanted);

// Reads a GGUF file, or a directory with config.json and *.safetensors (single or sharded).
//
// Errors name the file, and the tensor or field: NotFound (no such file), InvalidArgument
// (truncated or corrupt, or tensors whose shapes do not fit the configuration), Unimplemented (an
// architecture, RoPE scaling or quantization that kvship does not run).
absl::StatusOr<std::unique_ptr<const Transformer>> LoadTransformer(const std::string& path);

}  // namespace kvship
