#include "engine/gpu.h"
#include "prefill_service/gpu_prompt_reader.h"

namespace kvship {

absl::StatusOr<std::unique_ptr<PromptReader>> OpenGpuPromptReader(const ComputeDevice& gpu,
                                                                  const Transformer&, size_t,
                                                                  size_t) {
  return FindGpu(gpu);
}

}  // namespace kvship
