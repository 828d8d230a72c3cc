#include "transport/nccl_transport.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/start_thread.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

// Between two looks at what is under way: little beside the millisecond that a transfer takes, and
// enough to leave the core to others.
constexpr absl::Duration kPollInterval = absl::Microseconds(20);
// A bound, since a wait for ever cannot be told to standard libraries.
constexpr absl::Duration kLongestWait = absl::Hours(1);
constexpr absl::Duration kShutdownPatience = absl::Seconds(2);

void Issue(NcclExecutor& executor, NcclLibrary& library) {
  if (const absl::Status attached = library.AttachThread(); !attached.ok()) {
    LogError(absl::StrCat("NCCL is off: ", attached.message()));
    executor.Shutdown(absl::UnavailableError(attached.message()));
  }
  while (!executor.has_ended()) {
    const uint64_t seen = executor.num_changes();
    const bool look_again = executor.Advance();
    executor.AwaitChange(seen, look_again ? kPollInterval : kLongestWait);
  }
}

void Watch(NcclExecutor& executor) {
  while (!executor.has_ended()) {
    const uint64_t seen = executor.num_changes();
    const absl::Time next = executor.Watch();
    executor.AwaitChange(seen, std::min(next - MonotonicNow(), kLongestWait));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<NcclTransport>> NcclTransport::Create(
    std::shared_ptr<NcclLibrary> library, const NcclOptions& options) {
  const auto run_aside = [](std::function<void()> job) {
    try {
      std::thread(std::move(job)).detach();
    } catch (const std::system_error& error) {
      LogError(absl::StrCat("NCCL is off for good: no thread for an abort: ", error.what()));
    }
  };
  ASSIGN_OR_RETURN(std::shared_ptr<NcclExecutor> executor,
                   NcclExecutor::Create(library, options, MonotonicNow, run_aside));
  return std::unique_ptr<NcclTransport>(new NcclTransport(std::move(executor), std::move(library)));
}

NcclTransport::NcclTransport(std::shared_ptr<NcclExecutor> executor,
                             std::shared_ptr<NcclLibrary> library)
    : executor_(std::move(executor)),
      issuer_(StartThread("NCCL", [executor = executor_,
                                   library = std::move(library)] { Issue(*executor, *library); })),
      watcher_(StartThread("NCCL's deadlines", [executor = executor_] { Watch(*executor); })) {}

NcclTransport::~NcclTransport() {
  executor_->Shutdown(absl::UnavailableError("NCCL is shut down"));
  if (executor_->AwaitClosed(kShutdownPatience)) {
    issuer_.join();
  } else {
    LogWarning("a call of NCCL does not return; it is left behind");
    issuer_.detach();
  }
  watcher_.join();
}

}  // namespace kvship
