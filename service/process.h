// What a server program does to its process before and after it serves. Called by main only.
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

// While it lives, a signal of StopSignals, which must be there, ends the process at once.
class ExitOnStop {
 public:
  // With exit code 0: what is still loading has nothing to drain.
  ExitOnStop();
  // From Begin on, with exit code 1, as what drains has not ended; SIGHUP does nothing. Without a
  // signal too, some seconds after `drain_timeout`: a step that does not return is left behind.
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

// SIGTERM, SIGINT and SIGHUP, by which a server is told to stop. To be made before any thread
// starts, so that all threads leave these signals alone. SIGPIPE, SIGUSR1 and SIGUSR2 are ignored
// from then on.
class StopSignals {
 public:
  StopSignals();

  // Returns when one has come. Until this object is destroyed, what the server still does is under
  // ExitOnStop(drain_timeout).
  void Wait(absl::Duration drain_timeout);

 private:
  std::optional<ExitOnStop> drain_;
};

// The main of a server, whose command line has been read: starts the log and runs `serve`, which
// returns when all that it began has ended. `arguments`: the program's name and what on the command
// line is no flag, which a server takes none of. Returns the process's exit code.
int RunServer(const std::string& program, const std::vector<char*>& arguments,
              const std::string& log_format,
              const std::function<absl::Status(StopSignals&)>& serve);

// Where traces go: what --otlp_endpoint says, or if that is empty the environment's
// OTEL_EXPORTER_OTLP_ENDPOINT, which OpenTelemetry's own programs read.
std::string OtlpEndpoint(const std::string& flag);

// Says what happens now that a signal has come: running requests have `timeout` to end.
void LogDraining(absl::Duration timeout);

}  // namespace kvship
