// NcclTransport runs an NcclExecutor: it owns the thread that makes all NCCL calls of one GPU, the
// thread that enforces deadlines, and the helper threads for aborts. Thread safe; owned by main,
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
  // Errors: those of NcclOptions::Validate. Hanging aborts share `library`.
  static absl::StatusOr<std::unique_ptr<NcclTransport>> Create(std::shared_ptr<NcclLibrary> library,
                                                               const NcclOptions& options);
  // Shuts down. Leaves behind calls that hang in NCCL for more than two seconds, with their
  // threads.
  ~NcclTransport();
  NcclTransport(const NcclTransport&) = delete;
  NcclTransport& operator=(const NcclTransport&) = delete;

  NcclExecutor& executor() { return *executor_; }

 private:
  NcclTransport(std::shared_ptr<NcclExecutor> executor, std::shared_ptr<NcclLibrary> library);

  const std::shared_ptr<NcclExecutor> executor_;  // shared: with its threads, in case they hang
  std::thread issuer_;
  std::thread watcher_;
};

}  // namespace kvship
