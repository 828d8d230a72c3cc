// In the place of cudnn_attention.cc where cuDNN or cudnn-frontend is not installed.
#include "kernels/cuda/cudnn_attention.h"

namespace kvship::cuda {

struct CudnnAttention::Plan {};

absl::StatusOr<std::unique_ptr<CudnnAttention>> CudnnAttention::Create() {
  return absl::UnimplementedError("kvship was built without cuDNN and cudnn-frontend");
}

CudnnAttention::~CudnnAttention() = default;

absl::Status CudnnAttention::Run(cudaStream_t /*stream*/, const PromptAttentionArgs& /*args*/) {
  return absl::UnimplementedError("kvship was built without cuDNN and cudnn-frontend");
}

}  // namespace kvship::cuda
