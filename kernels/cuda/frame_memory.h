// Memory of a GPU, and of the host beside it, for frames on their way between GPUs.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "base/frame_staging.h"

namespace kvship::cuda {

// On the GPU `ordinal`; the memory lives as long as the process. ResourceExhausted if there is no
// more of it.
absl::StatusOr<std::shared_ptr<FrameStaging>> CreateFrameStaging(int ordinal, size_t num_frames);

}  // namespace kvship::cuda
