// What a server program does to its process before and after it serves. Called by main only.
#pragma once

#include <atomic>
#include <string>
#include <thread>

#include "absl/time/time.h"

namespace kvship {

// Makes malloc keep the memory of message buffers instead of giving each back to the system, which
// costs a page fault per 4 KiB of every frame.
void KeepFreedMemory();

// SIGTERM and SIGINT, taken one at a time by whoever waits. To be made before any thread starts, so
// that all threads leave these signals alone. SIGPIPE is ignored from then on.
class StopSignals {
 public:
  StopSignals();

  // Returns the number of the signal that came.
  int Wait();
};

// While it lives, a signal of StopSignals, which must be there, ends the process at once with exit
// code 0: what is still loading has nothing to drain.
class ExitOnStop {
 public:
  ExitOnStop();
  ~ExitOnStop();

 private:
  std::atomic<bool> ended_ = false;
  std::thread thread_;
};

// Where traces go: what --otlp_endpoint says, or if that is empty the environment's
// OTEL_EXPORTER_OTLP_ENDPOINT, which OpenTelemetry's own programs read.
std::string OtlpEndpoint(const std::string& flag);

// Says what happens now that a signal has come: running requests have `timeout` to end.
void LogDraining(absl::Duration timeout);

}  // namespace kvship
