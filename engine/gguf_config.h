// Reads a model's configuration from GGUF metadata, for the architectures llama (which covers
// Mistral and Mixtral), qwen2, qwen3 and qwen3moe. A pure function.
#pragma once

#include "absl/status/statusor.h"
#include "engine/gguf.h"
#include "engine/model_config.h"

namespace kvship {

// Errors name the file and the key. InvalidArgument: a value is missing, of the wrong type, or
// invalid. Unimplemented: an architecture or an option that kvship does not run.
absl::StatusOr<ModelConfig> ReadGgufConfig(const GgufFile& file);

}  // namespace kvship
