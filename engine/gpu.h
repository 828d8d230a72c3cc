// What the services ask of a GPU, free of CUDA's headers. engine/cuda/ has it where there is a CUDA
// compiler, else gpu_missing.cc says that it is not there.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "base/frame_staging.h"
#include "engine/compute_device.h"
#include "engine/decoder.h"
#include "engine/transformer.h"

namespace kvship {

// Whether `gpu` can be computed on. FailedPrecondition naming --device if the program has no CUDA
// in it, or the machine has no such GPU or no driver; naming the library if it has no cuBLASLt.
absl::Status FindGpu(const ComputeDevice& gpu);

// Decode on a GPU: weights, caches, activations of up to `max_sequences` and attention's scratch in
// its memory, which are taken at once. Borrows nothing of `model`. Errors: Unimplemented for models
// that only the CPU runs, ResourceExhausted if the GPU's memory does not hold it all.
absl::StatusOr<DecodeDevice> OpenGpuForDecode(const ComputeDevice& gpu, const Transformer& model,
                                              size_t pool_bytes, size_t max_sequences);

// Blocks for so many frames in a GPU's memory and in pinned memory of the host, for good.
// ResourceExhausted if there is no more of either.
absl::StatusOr<std::shared_ptr<FrameStaging>> OpenGpuFrameStaging(const ComputeDevice& gpu,
                                                                  size_t num_frames);

}  // namespace kvship
