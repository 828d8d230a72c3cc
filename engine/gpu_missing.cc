#include "engine/gpu.h"

namespace kvship {

absl::Status FindGpu(const ComputeDevice&) {
  return absl::FailedPreconditionError(
      "--device names a GPU, and this program was built without CUDA; wanted cpu, or a program "
      "built where there is a CUDA compiler");
}

absl::StatusOr<DecodeDevice> OpenGpuForDecode(const ComputeDevice& gpu, const Transformer&, size_t,
                                              size_t) {
  return FindGpu(gpu);
}

absl::StatusOr<std::shared_ptr<FrameStaging>> OpenGpuFrameStaging(const ComputeDevice& gpu,
                                                                  size_t) {
  return FindGpu(gpu);
}

}  // namespace kvship
