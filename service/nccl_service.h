// NcclService is NCCL at work in a service's process: the transport of its GPU, the staging of
// frames, a thread for what the transport's callbacks may not wait for, and one for what comes at
// its time. Thread safe; owned by main, where --transport asks for it.
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

// Whether --transport is "nccl" rather than "grpc". Errors: InvalidArgument naming the flag.
absl::StatusOr<bool> WantsNccl(absl::string_view transport, bool has_gpu);

class NcclService {
 public:
  // Frames under way at a time, of all requests: 64 MiB, what a fast link moves in a few
  // milliseconds.
  static constexpr size_t kStagedFrames = 64;

  // On a GPU of the machine, with staging in its memory. Errors: as CreateNcclLibrary. Borrows
  // metrics.
  static absl::StatusOr<std::unique_ptr<NcclService>> Open(int gpu,
                                                           std::shared_ptr<FrameStaging> staging,
                                                           NcclMetrics& metrics);
  // Errors: as NcclOptions::Validate.
  static absl::StatusOr<std::unique_ptr<NcclService>> Create(std::shared_ptr<NcclLibrary> library,
                                                             std::shared_ptr<FrameStaging> staging,
                                                             const NcclOptions& options,
                                                             absl::Duration transfer_timeout,
                                                             NcclMetrics& metrics);
  // What is under way fails first.
  ~NcclService();

  const NcclEndpoint& endpoint() const { return endpoint_; }
  NcclMetrics& metrics() const { return metrics_; }
  // Runs a task that may wait, after those before it.
  void RunAside(std::function<void()> task) { tasks_.Run(std::move(task)); }
  // Runs one that must not wait, at a time of the monotonic clock.
  void RunAt(absl::Time time, std::function<void()> task) { deadlines_.Add(time, std::move(task)); }

 private:
  NcclService(std::unique_ptr<NcclTransport> transport, NcclEndpoint endpoint,
              NcclMetrics& metrics);

  NcclMetrics& metrics_;
  const NcclEndpoint endpoint_;
  TaskThread tasks_;
  DeadlineWatch deadlines_;
  const std::unique_ptr<NcclTransport> transport_;  // goes first: its last answers make tasks
};

}  // namespace kvship
