// NcclEndpoint is what a request's stream uses of NCCL. Plain data; its parts are shared, as
// transfers may end after the process' own part in them.
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
  // What peers know this GPU by, drawn at random: a process that is started anew is another one.
  uint64_t gpu = 0;
  // From a frame's announcement to its bytes; a transfer of 1 MiB takes a millisecond, and may wait
  // for those of other requests.
  absl::Duration transfer_timeout = absl::Seconds(2);
};

}  // namespace kvship
