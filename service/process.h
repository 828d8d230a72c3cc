// Process setup and shutdown of a server program: signals, exit, log. Called by main only.
#pragma once

#include <signal.h>

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvship {

// While it exists, a signal of StopSignals, which must exist, ends the process at once.
class ExitOnStop {
 public:
  // Exit code 0: a server that is still loading has nothing to drain.
  ExitOnStop();
  // A moment after Begin, with exit code 1 because draining has not ended; ignores SIGHUP. Also
  // ends the process without a signal, some seconds after `drain_timeout`: a step that hangs is
  // abandoned.
  explicit ExitOnStop(absl::Duration drain_timeout);
  ~ExitOnStop();

  void Begin();

 private:
  void Watch(const sigset_t& set, absl::Time deadline, const std::string& at_signal,
             const std::string& at_deadline, int exit_code);

  std::atomic<bool> begun_ = false;
  std::atomic<bool> ended_ = false;
  std::thread thread_;
};

// Receives SIGTERM, SIGINT and SIGHUP, which stop a server. Construct it before any thread starts,
// so that all threads block these signals. Ignores SIGPIPE, SIGUSR1 and SIGUSR2 from then on.
class StopSignals {
 public:
  StopSignals();

  // Waits for a signal. Afterwards ExitOnStop(drain_timeout) is active until this object is
  // destroyed.
  void Wait(absl::Duration drain_timeout);

 private:
  std::optional<ExitOnStop> drain_;
};

// The main function of a server after flag parsing: starts the log and runs `serve`, which returns
// when all that it started has ended. `arguments`: the program's name and the non-flag arguments,
// of which a server accepts none. Returns the process's exit code: 1 after an error, or if gRPC
// lost its port.
int RunServer(const std::string& program, const std::vector<char*>& arguments,
              const std::string& log_format,
              const std::function<absl::Status(StopSignals&)>& serve);

// Returns where to send traces: --otlp_endpoint or, if empty, the environment's
// OTEL_EXPORTER_OTLP_ENDPOINT, as OpenTelemetry's own programs do.
std::string OtlpEndpoint(const std::string& flag);

// Logs that draining starts: running requests have `timeout` to end.
void LogDraining(absl::Duration timeout);

}  // namespace kvship
