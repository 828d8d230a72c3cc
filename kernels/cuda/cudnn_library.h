// Opens cuDNN and NVRTC, which are a GPU's alone, when prompt attention first needs them. Their
// functions, as far as cudnn-frontend calls them, are defined here and call those of the libraries.
#pragma once

#include "absl/status/status.h"

namespace kvship::cuda {

// FailedPrecondition, naming the library, if one of them is not there; none of their functions may
// be called then.
absl::Status FindCudnn();

}  // namespace kvship::cuda
