// The GPU's PromptReader, free of CUDA's headers. prefill_service/cuda/ has it where there is a
// CUDA compiler; gpu_prompt_reader_missing.cc says that it is not there.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/compute_device.h"
#include "engine/transformer.h"
#include "prefill_service/prompt_reader.h"

namespace kvship {

// Takes memory for weights and activations on the GPU; borrows nothing of `model`. `block_tokens`
// is a power of two of at least 128, or 0 for the default. Errors: as FindGpu, Unimplemented for
// models that only the CPU runs, ResourceExhausted if the GPU's memory does not hold it,
// InvalidArgument for a prefix cache without room for a block.
absl::StatusOr<std::unique_ptr<PromptReader>> OpenGpuPromptReader(const ComputeDevice& gpu,
                                                                  const Transformer& model,
                                                                  size_t block_tokens,
                                                                  size_t prefix_cache_bytes);

}  // namespace kvship
