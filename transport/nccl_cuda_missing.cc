#include "transport/nccl_cuda.h"

namespace kvship {

void PrepareNcclEnvironment() {}

absl::StatusOr<std::shared_ptr<NcclLibrary>> CreateNcclLibrary(const NcclCudaOptions&) {
  return absl::UnavailableError("this build is without NCCL");
}

}  // namespace kvship
