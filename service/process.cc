#include "service/process.h"

#include <malloc.h>
#include <signal.h>

namespace kvship {
namespace {

// Well above a frame of 1 MiB, so that no message buffer is mapped by itself.
constexpr int kMapThresholdBytes = 8 << 20;
constexpr int kTrimThresholdBytes = 64 << 20;
constexpr int kTopPadBytes = 4 << 20;

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

}  // namespace kvship
