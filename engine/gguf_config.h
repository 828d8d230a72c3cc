// The configuration that the metadata of a GGUF file gives for its architectures llama, which
// covers Mistral and Mixtral too, qwen2, qwen3 and qwen3moe.
#pragma once

#include "absl/status/statusor.h"
#include "engine/gguf.h"
#include "engine/model_config.h"

namespace kvship {

// Errors name the file and the key. InvalidArgument: a value that is missing, of the wrong type, or
// cannot be. Unimplemented: an architecture or an option that kvship does not run.
absl::StatusOr<ModelConfig> ReadGgufConfig(const GgufFile& file);

}  // namespace kvship
