// Allocates GPU memory, and host memory beside it, for frames in transit between GPUs.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "base/frame_staging.h"

namespace kvship::cuda {

// On the GPU `ordinal`; the memory lives as long as the process. ResourceExhausted if there is too
// little of it.
absl::StatusOr<std::shared_ptr<FrameStaging>> CreateFrameStaging(int ordinal, size_t num_frames);

}  // namespace kvship::cuda
