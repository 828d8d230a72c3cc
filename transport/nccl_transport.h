// NcclTransport is an NcclExecutor at work: with the thread that makes all NCCL calls of one GPU,
// the thread that keeps the deadlines, and helper threads for aborts. Thread safe; owned by main,
// one per GPU.
#pragma once

#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "transport/nccl_device.h"
#include "transport/nccl_executor.h"

namespace kvship {

class NcclTransport {
 public:
  // Errors: those of NcclOptions::Validate. `library` is shared with aborts that hang.
  static absl::StatusOr<std::unique_ptr<NcclTransport>> Create(std::shared_ptr<NcclLibrary> library,
                                                               const NcclOptions& options);
  // Shuts down. What hangs in NCCL for longer than two seconds is left behind, with its thread.
  ~NcclTransport();
  NcclTransport(const NcclTransport&) = delete;
  NcclTransport& operator=(const NcclTransport&) = delete;

  NcclExecutor& executor() { return *executor_; }

 private:
  NcclTransport(std::shared_ptr<NcclExecutor> executor, std::shared_ptr<NcclLibrary> library);

  const std::shared_ptr<NcclExecutor> executor_;  // shared: with its threads, should they hang
  std::thread issuer_;
  std::thread watcher_;
};

}  // namespace kvship
