// The NcclLibrary of real NCCL and CUDA: non-blocking communicators of two ranks with few CTAs,
// each with its own stream. NCCL neither authenticates nor encrypts its traffic: use it only on
// networks private to the cluster.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "transport/nccl_device.h"

namespace kvship {

struct NcclCudaOptions {
  int device = 0;
  // CTAs that one transfer may take from the device's other work; NCCL_MAX_CTAS overrides it. On
  // one link each CTA moves about 20 GB/s.
  int max_ctas = 4;
};

// Sets the environment that NCCL and CUDA read: no RAS service, which listens on a port; no
// inherited unique id; nothing that only collectives need; more CUDA work queues. Call it first in
// main, before any thread starts.
void PrepareNcclEnvironment();

// Errors: FailedPrecondition, naming the library, if libnccl is not installed; Unavailable if there
// is no such device or this build lacks NCCL.
absl::StatusOr<std::shared_ptr<NcclLibrary>> CreateNcclLibrary(const NcclCudaOptions& options);

}  // namespace kvship
