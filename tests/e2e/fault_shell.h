// A server program started by a shell, which can give it what Process does not: limits, full disks,
// libraries loaded first.
#pragma once

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/e2e/processes.h"

extern char** environ;

namespace kvship {

class ShellServer {
 public:
  // Runs `before`, shell commands, and then the program, with what `redirections` say of its
  // output.
  ShellServer(const std::string& before, const std::string& program, const std::string& model,
              const std::vector<std::string>& flags,
              const std::string& redirections = ">/dev/null 2>&1") {
    command_ = absl::StrCat(before, " exec " KVSHIP_BIN "/", program, " --model=", model,
                            " --listen=", address(), " --admin=127.0.0.1:", admin_port, " ",
                            absl::StrJoin(flags, " "), " ", redirections);
    Start();
  }
  ~ShellServer() {
    kill(pid_, SIGKILL);
    if (!ended_) waitpid(pid_, nullptr, 0);
  }
  ShellServer(const ShellServer&) = delete;
  ShellServer& operator=(const ShellServer&) = delete;

  // Once it has ended: the same anew.
  void Restart() {
    ended_ = false;
    Start();
  }

  std::string address() const { return absl::StrCat("127.0.0.1:", port); }
  bool WaitUntilReady() const {
    return Eventually([this] { return !HttpGet(admin_port, "/readyz").empty(); });
  }
  int pid() const { return pid_; }  // the shell's, which becomes the program
  bool runs() { return !ended_ && waitpid(pid_, nullptr, WNOHANG) == 0; }
  void Signal(int number) const { SendSignal(pid_, number); }
  // The exit code, or -1000 if it still runs after `timeout`.
  int Wait(absl::Duration timeout = absl::Seconds(30)) {
    int status = 0;
    ended_ = Eventually([&] { return waitpid(pid_, &status, WNOHANG) == pid_; }, timeout);
    return !ended_ ? -1000 : WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  const int port = FreePort();
  const int admin_port = FreePort();

 private:
  void Start() {
    const char* const argv[] = {"sh", "-c", command_.c_str(), nullptr};
    posix_spawn(&pid_, "/bin/sh", nullptr, nullptr, const_cast<char* const*>(argv), environ);
  }

  std::string command_;
  pid_t pid_ = 0;
  bool ended_ = false;
};

}  // namespace kvship
