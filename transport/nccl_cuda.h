// The NCCL and CUDA behind the NCCL transport: communicators of two ranks, non-blocking, with few
// CTAs, and a stream each. NCCL neither authenticates nor encrypts what it moves: it is for
// networks that are the cluster's own.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "transport/nccl_device.h"

namespace kvship {

struct NcclCudaOptions {
  int device = 0;
  // Blocks of threads that one transfer may take from the device's other work; NCCL_MAX_CTAS
  // overrides it. On one link each moves some 20 GB/s.
  int max_ctas = 4;
};

// Sets up the environment that NCCL reads: without its RAS service, which listens on a port,
// without a unique id of somebody else's, and without what only collectives need. Called first in
// main, before there are threads.
void PrepareNcclEnvironment();

// Errors: FailedPrecondition, naming it, if libnccl is not there; Unavailable if there is no such
// device, or if this build is without NCCL.
absl::StatusOr<std::shared_ptr<NcclLibrary>> CreateNcclLibrary(const NcclCudaOptions& options);

}  // namespace kvship
