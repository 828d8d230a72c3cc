#include "service/process.h"

#include <fcntl.h>
#include <grpc/support/log.h>
#include <malloc.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/start_thread.h"
#include "service/readiness.h"
#include "transport/nccl_cuda.h"

namespace kvship {
namespace {

// Well above a frame of 1 MiB, so that no message buffer is mapped by itself.
constexpr int kMapThresholdBytes = 8 << 20;
constexpr int kTrimThresholdBytes = 64 << 20;
constexpr int kTopPadBytes = 4 << 20;

// How late the end of ExitOnStop may be noticed.
constexpr timespec kExitPeriod = {.tv_sec = 0, .tv_nsec = 20'000'000};

// For what follows the wait for requests: the last answers on their way to slow clients take up to
// 5 s, the last spans 2.5 s, a look-up of names 0.5 s.
constexpr absl::Duration kEndTime = absl::Seconds(9);

// Signals so soon after the first say the same: Ctrl-C reaches a terminal's whole group, whose
// parent may pass it on.
constexpr absl::Duration kSameStop = absl::Milliseconds(200);

// For a last line: the log waits for room, and what is behind standard error may hold it up.
constexpr unsigned kLastLineSeconds = 1;

// A signal to stop has come.
std::atomic<bool> is_stopping = false;

// By an alarm, as the system may have no thread left that would look at the time.
[[noreturn]] void ExitWith(const std::string& line, int exit_code) {
  static std::atomic<int> code;
  code = exit_code;
  signal(SIGALRM, [](int) { _exit(code); });
  alarm(kLastLineSeconds);
  exit_code == 0 ? LogInfo(line) : LogError(line);
  _exit(exit_code);
}

// Makes malloc keep the memory of message buffers instead of giving each back to the system, which
// costs a page fault per 4 KiB of every frame.
void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, kMapThresholdBytes);
  mallopt(M_TRIM_THRESHOLD, kTrimThresholdBytes);
  mallopt(M_TOP_PAD, kTopPadBytes);
}

// While it lives, what gRPC would write to standard error by itself, as of handshakes that fail,
// are lines of the log. Threads of gRPC's may outlive the log.
class GrpcLines {
 public:
  GrpcLines() { gpr_set_log_function(Write); }
  ~GrpcLines() { gpr_set_log_function(nullptr); }

  // gRPC takes no connections any more.
  bool port_is_lost() const { return port_is_lost_; }

 private:
  static void Write(gpr_log_func_args* line) {
    const std::string text = absl::StrCat("gRPC: ", line->message);
    line->severity == GPR_LOG_SEVERITY_ERROR ? LogWarning(text) : LogInfo(text);
    // At such an error, as where no descriptor was left for a moment, gRPC drops its port for good
    // and says so nowhere else. What runs shall end, and the server be started anew.
    if (absl::StrContains(line->message, "Failed accept4") && !port_is_lost_.exchange(true)) {
      LogError("gRPC takes no connections any more; this server stops");
      if (!is_stopping) kill(getpid(), SIGTERM);
    }
  }

  static inline std::atomic<bool> port_is_lost_ = false;
};

// A connection takes a descriptor, and what sessions and services start with is often 1024.
void RaiseDescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// Where the program was started without one of the standard streams, its number would be that of
// the next socket, and the log would go to whoever is at its other end.
void OpenClosedStandardStreams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // The lowest number that is free is this one.
    if (fcntl(stream, F_GETFD) < 0) open("/dev/null", O_RDWR);
  }
}

sigset_t SetOf(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : signals) sigaddset(&set, number);
  return set;
}

// Those that say a second time that it shall stop. A terminal that closes sends SIGHUP by the
// kernel and by the shell.
sigset_t SecondStopSet() { return SetOf({SIGTERM, SIGINT}); }

// Without SIGHUP where who started the program has it ignored, as nohup does.
sigset_t StopSet() {
  struct sigaction hangup = {};
  sigaction(SIGHUP, nullptr, &hangup);
  return hangup.sa_handler == SIG_IGN ? SecondStopSet() : SetOf({SIGTERM, SIGINT, SIGHUP});
}

// What `serve` gives; ResourceExhausted where the system has not the threads for it.
absl::Status UnlessOutOfThreads(const std::function<absl::Status()>& serve) {
  try {
    return serve();
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the system has no thread left for this server: ", error.what(), kMoreThreadsWanted));
  }
}

absl::Status CheckNoArguments(const std::vector<char*>& arguments) {
  if (arguments.size() <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("'", arguments[1],
                   "' is no flag; wanted flags alone, a boolean's value behind '=', as in "
                   "--float32=false"));
}

}  // namespace

StopSignals::StopSignals() {
  const sigset_t set = StopSet();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  for (const int ignored : {SIGPIPE, SIGUSR1, SIGUSR2}) signal(ignored, SIG_IGN);
}

void StopSignals::Wait(absl::Duration drain_timeout) {
  // Now, for when the signal comes the system may have no thread left for it.
  drain_.emplace(drain_timeout);
  const sigset_t set = StopSet();
  int came = 0;
  sigwait(&set, &came);
  is_stopping = true;
  drain_->Begin();
}

ExitOnStop::ExitOnStop() {
  thread_ = StartThread("signals to stop", [this] {
    Watch(StopSet(), absl::InfiniteFuture(), "stopped while loading", "", 0);
  });
}

ExitOnStop::ExitOnStop(absl::Duration drain_timeout) {
  thread_ = StartThread("signals to stop", [this, drain_timeout] {
    begun_.wait(false);
    const sigset_t set = SecondStopSet();
    for (const absl::Time begun = MonotonicNow(); !ended_ && MonotonicNow() < begun + kSameStop;) {
      sigtimedwait(&set, nullptr, &kExitPeriod);
    }
    Watch(set, MonotonicNow() + drain_timeout + kEndTime,
          "a second signal came; what still runs is left behind",
          absl::StrCat("what runs did not end within --drain_timeout, ",
                       absl::FormatDuration(drain_timeout), ", and ",
                       absl::FormatDuration(kEndTime), " more; it is left behind"),
          1);
  });
}

void ExitOnStop::Begin() {
  begun_ = true;
  begun_.notify_one();
}

void ExitOnStop::Watch(const sigset_t& set, absl::Time deadline, const std::string& at_signal,
                       const std::string& at_deadline, int exit_code) {
  while (!ended_) {
    const bool came = sigtimedwait(&set, nullptr, &kExitPeriod) > 0;
    if (!came && MonotonicNow() < deadline) continue;
    ExitWith(came ? at_signal : at_deadline, exit_code);
  }
}

ExitOnStop::~ExitOnStop() {
  ended_ = true;
  Begin();  // it may not have begun
  thread_.join();
}

int RunServer(const std::string& program, const std::vector<char*>& arguments,
              const std::string& log_format,
              const std::function<absl::Status(StopSignals&)>& serve) {
  OpenClosedStandardStreams();
  PrepareNcclEnvironment();
  KeepFreedMemory();
  RaiseDescriptorLimit();
  StopSignals signals;
  const auto format = ParseLogFormat(log_format);
  if (!format.ok()) {
    std::fprintf(stderr, "%s\n", std::string(format.status().message()).c_str());
    return 1;
  }
  StartLog(program, *format);
  const GrpcLines grpc_lines;
  absl::Status status = CheckNoArguments(arguments);
  if (status.ok()) status = UnlessOutOfThreads([&] { return serve(signals); });
  if (!status.ok()) {
    LogError(status.message());
    return 1;
  }
  LogInfo("stopped");
  return grpc_lines.port_is_lost() ? 1 : 0;
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
