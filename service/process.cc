#include "service/process.h"

#include <malloc.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "service/readiness.h"

namespace kvship {
namespace {

// Well above a frame of 1 MiB, so that no message buffer is mapped by itself.
constexpr int kMapThresholdBytes = 8 << 20;
constexpr int kTrimThresholdBytes = 64 << 20;
constexpr int kTopPadBytes = 4 << 20;

// How late the end of ExitOnStop may be noticed.
constexpr timespec kExitPeriod = {.tv_sec = 0, .tv_nsec = 20'000'000};

sigset_t StopSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, kMapThresholdBytes);
  mallopt(M_TRIM_THRESHOLD, kTrimThresholdBytes);
  mallopt(M_TOP_PAD, kTopPadBytes);
}

StopSignals::StopSignals() {
  const sigset_t set = StopSet();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

int StopSignals::Wait() {
  const sigset_t set = StopSet();
  int came = 0;
  sigwait(&set, &came);
  return came;
}

ExitOnStop::ExitOnStop() {
  thread_ = std::thread([this] {
    const sigset_t set = StopSet();
    while (!ended_) {
      if (sigtimedwait(&set, nullptr, &kExitPeriod) < 0) continue;
      LogInfo("stopped while loading");
      _exit(0);
    }
  });
}

ExitOnStop::~ExitOnStop() {
  ended_ = true;
  thread_.join();
}

std::string OtlpEndpoint(const std::string& flag) {
  const char* environment = std::getenv("OTEL_EXPORTER_OTLP_ENDPOINT");
  return flag.empty() && environment != nullptr ? environment : flag;
}

void LogDraining(absl::Duration timeout) {
  LogInfo(absl::StrCat("draining: not ready from now on; new requests are taken for ",
                       absl::FormatDuration(std::min(kDrainNotice, timeout)),
                       " more, and running ones have ", absl::FormatDuration(timeout), " to end"));
}

}  // namespace kvship
