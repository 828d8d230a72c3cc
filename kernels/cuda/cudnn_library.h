// Opens cuDNN and NVRTC, which only a GPU needs, when prompt attention first uses them. The
// functions that cudnn-frontend calls are defined here and forward to the libraries.
#pragma once

#include "absl/status/status.h"

namespace kvship::cuda {

// FailedPrecondition, naming the library, if one of them is missing; then none of their functions
// may be called.
absl::Status FindCudnn();

}  // namespace kvship::cuda
