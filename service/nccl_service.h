// NcclService runs NCCL in a service's process: it owns the transport of the GPU, the staging
// buffers of frames, a thread for work that the transport's callbacks must not wait for, and one
// for timers. Thread safe; owned by main, if --transport asks for it.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/deadline_watch.h"
#include "base/task_thread.h"
#include "service/nccl_metrics.h"
#include "transport/nccl_endpoint.h"
#include "transport/nccl_transport.h"

namespace kvship {

// Returns whether --transport is "nccl" rather than "grpc". Errors: InvalidArgument naming the
// flag.
absl::StatusOr<bool> WantsNccl(absl::string_view transport, bool has_gpu);

class NcclService {
 public:
  // Frames in flight at a time, of all requests: 64 MiB, which a fast link moves in a few
  // milliseconds.
  static constexpr size_t kStagedFrames = 64;

  // Opens NCCL on a GPU of this machine, with `staging` in its memory. Borrows metrics. Errors: as
  // CreateNcclLibrary.
  static absl::StatusOr<std::unique_ptr<NcclService>> Open(int gpu,
                                                           std::shared_ptr<FrameStaging> staging,
                                                           NcclMetrics& metrics);
  // Errors: as NcclOptions::Validate.
  static absl::StatusOr<std::unique_ptr<NcclService>> Create(std::shared_ptr<NcclLibrary> library,
                                                             std::shared_ptr<FrameStaging> staging,
                                                             const NcclOptions& options,
                                                             absl::Duration transfer_timeout,
                                                             NcclMetrics& metrics);
  // Fails transfers in flight first.
  ~NcclService();

  const NcclEndpoint& endpoint() const { return endpoint_; }
  NcclMetrics& metrics() const { return metrics_; }
  // Queues a task that may block; tasks run in order.
  void RunAside(std::function<void()> task) { tasks_.Run(std::move(task)); }
  // Runs a task that must not block, at a monotonic time.
  void RunAt(absl::Time time, std::function<void()> task) { deadlines_.Add(time, std::move(task)); }

 private:
  NcclService(std::unique_ptr<NcclTransport> transport, NcclEndpoint endpoint,
              NcclMetrics& metrics);

  NcclMetrics& metrics_;
  const NcclEndpoint endpoint_;
  TaskThread tasks_;
  DeadlineWatch deadlines_;
  const std::unique_ptr<NcclTransport> transport_;  // destroyed first: its callbacks queue tasks
};

}  // namespace kvship
