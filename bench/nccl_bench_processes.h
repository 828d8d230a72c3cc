// The processes of kvship-nccl-bench: how the parent starts and ends them, and how all speak.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace kvship {

// From the start; then whatever is left is killed.
inline constexpr unsigned kWatchdogSeconds = 55;

// Of this process; `start` is the parent's, so that all print the same time.
inline const char* role = "parent";
inline absl::Time start = MonotonicNow();

inline double Ms(absl::Duration duration) { return absl::ToDoubleMilliseconds(duration); }

[[gnu::format(printf, 1, 2)]] inline void Say(const char* format, ...) {
  char text[512];
  va_list values;
  va_start(values, format);
  std::vsnprintf(text, sizeof text, format, values);
  va_end(values);
  std::printf("%8.1f ms  %-10s  %s\n", Ms(MonotonicNow() - start), role, text);
  std::fflush(stdout);
}

[[noreturn]] inline void GiveUp(const std::string& why) {
  Say("FAILED: %s", why.c_str());
  std::_Exit(1);
}

// Runs this program again, as what `as` says, with these of its sockets and NCCL set up for two
// ranks on one GPU.
inline pid_t Start(const char* as, const std::vector<int>& sockets) {
  const pid_t child = fork();
  if (child != 0) return child;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // Two hosts, as far as NCCL can see.
  setenv("NCCL_HOSTID", as, 1);
  setenv("NCCL_NET", "Socket", 1);
  setenv("NCCL_SOCKET_IFNAME", "lo", 1);
  setenv("NCCL_MAX_CTAS", "2", 1);
  setenv("NCCL_DEBUG", "WARN", 0);
  std::vector<std::string> words = {as, absl::StrCat(absl::ToUnixNanos(start))};
  for (const int socket : sockets) {
    fcntl(socket, F_SETFD, 0);  // the others close: a socket ends with its process
    words.push_back(absl::StrCat(socket));
  }
  std::vector<char*> arguments = {program_invocation_name};
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  execv("/proc/self/exe", arguments.data());
  std::_Exit(127);
}

struct Child {
  const char* name;
  int wanted;  // wait status: killed, or exit code 0
  pid_t pid;   // 0: has ended
};

// Whether all children ended as wanted; none is left.
inline bool AwaitChildren(std::vector<Child> children) {
  bool right = true;
  for (size_t num_left = children.size(); num_left > 0;) {
    const absl::Duration passed = MonotonicNow() - start;
    const bool late = passed > absl::Seconds(kWatchdogSeconds);
    if (late && right) Say("WATCHDOG: killing what is left");
    right = right && !late;
    for (Child& child : children) {
      if (child.pid == 0) continue;
      if (!right) kill(child.pid, SIGKILL);
      int status = 0;
      if (waitpid(child.pid, &status, WNOHANG) == 0) continue;
      Say("%s has ended, wait status %d, wanted %d", child.name, status, child.wanted);
      right = right && status == child.wanted;
      child.pid = 0;
      --num_left;
    }
    // Not even killing helps against a driver that hangs.
    if (passed > absl::Seconds(kWatchdogSeconds + 3)) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return right;
}

}  // namespace kvship
