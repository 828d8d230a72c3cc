// The services' interface to a GPU, free of CUDA headers. engine/cuda/ implements it if there is a
// CUDA compiler; otherwise gpu_missing.cc returns errors.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "base/frame_staging.h"
#include "engine/compute_device.h"
#include "engine/decoder.h"
#include "engine/transformer.h"

namespace kvship {

// Checks that `gpu` is usable. FailedPrecondition naming --device if the program was built without
// CUDA, or the machine has no such GPU or no driver; naming the library if it has no cuBLASLt.
absl::Status FindGpu(const ComputeDevice& gpu);

// Opens a GPU for decoding. Allocates its memory at once: weights, caches, activations of up to
// `max_sequences` and attention scratch. Borrows nothing from `model`. Errors: as FindGpu,
// Unimplemented for models that only the CPU runs, ResourceExhausted if the GPU's memory is too
// small.
absl::StatusOr<DecodeDevice> OpenGpuForDecode(const ComputeDevice& gpu, const Transformer& model,
                                              size_t pool_bytes, size_t max_sequences);

// Allocates blocks for `num_frames` frames in GPU memory and in pinned host memory, never to be
// freed. ResourceExhausted if there is too little of either.
absl::StatusOr<std::shared_ptr<FrameStaging>> OpenGpuFrameStaging(const ComputeDevice& gpu,
                                                                  size_t num_frames);

}  // namespace kvship
