// Opens the GPU's PromptReader without including CUDA headers. prefill_service/cuda/ implements it
// if a CUDA compiler is present; else gpu_prompt_reader_missing.cc returns an error.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/compute_device.h"
#include "engine/transformer.h"
#include "prefill_service/prompt_reader.h"

namespace kvship {

// Allocates weights and activations on the GPU; borrows nothing of `model`. `block_tokens` is a
// power of two of at least 128, or 0 for the default. Errors: as FindGpu; Unimplemented for models
// that only the CPU runs; ResourceExhausted if they exceed the GPU's memory; InvalidArgument for a
// prefix cache smaller than one block.
absl::StatusOr<std::unique_ptr<PromptReader>> OpenGpuPromptReader(const ComputeDevice& gpu,
                                                                  const Transformer& model,
                                                                  size_t block_tokens,
                                                                  size_t prefix_cache_bytes);

}  // namespace kvship
