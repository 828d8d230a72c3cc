// NcclEndpoint holds what a request's stream needs to transfer over NCCL. Plain data. Its members
// are shared because transfers may outlive the process' own use of them.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "base/frame_staging.h"
#include "transport/nccl_executor.h"

namespace kvship {

struct NcclEndpoint {
  std::shared_ptr<NcclExecutor> executor;
  std::shared_ptr<FrameStaging> staging;
  // Identifies this GPU to peers: drawn at random, so that a restarted process is a new peer.
  uint64_t gpu = 0;
  // From a frame's announcement to the arrival of its bytes. A transfer of 1 MiB takes a
  // millisecond, and may queue behind those of other requests.
  absl::Duration transfer_timeout = absl::Seconds(2);
};

}  // namespace kvship
