// StoppedThread holds one thread of another process still: what a wedged thread looks like from
// outside. The others run on.
#pragma once

#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/wait.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/e2e/processes.h"

namespace kvship {

class StoppedThread {
 public:
  // Of the process `pid`, by the thread's name. Whoever made it must destroy it, too.
  StoppedThread(int pid, const std::string& name) {
    // A thread that has just begun has not yet given itself its name.
    if (!Eventually([&] { return (id_ = Find(pid, name)) != 0; })) return;
    errno = 0;
    is_stopped_ = id_ != 0 && ptrace(PTRACE_SEIZE, id_, nullptr, nullptr) == 0 &&
                  ptrace(PTRACE_INTERRUPT, id_, nullptr, nullptr) == 0 &&
                  waitpid(id_, nullptr, __WALL) == id_;
    error_ = errno;
  }
  // Lets it go on, where its process has not ended. That has its end only after this one's.
  ~StoppedThread() {
    if (is_stopped_ && ptrace(PTRACE_DETACH, id_, nullptr, nullptr) != 0) {
      waitpid(id_, nullptr, __WALL);
    }
  }
  StoppedThread(const StoppedThread&) = delete;
  StoppedThread& operator=(const StoppedThread&) = delete;

  bool is_stopped() const { return is_stopped_; }
  // Whether this machine lets nobody stop a thread so, as containers without CAP_SYS_PTRACE may.
  bool is_forbidden() const { return error_ == EPERM; }

 private:
  // The thread's id; 0 if there is none of that name.
  static pid_t Find(int pid, const std::string& name) {
    const std::filesystem::path threads = absl::StrCat("/proc/", pid, "/task");
    for (const auto& entry : std::filesystem::directory_iterator(threads)) {
      std::string found;
      std::getline(std::ifstream(entry.path() / "comm"), found);
      pid_t id = 0;
      if (found == name && absl::SimpleAtoi(entry.path().filename().string(), &id)) return id;
    }
    return 0;
  }

  pid_t id_ = 0;
  bool is_stopped_ = false;
  int error_ = 0;
};

}  // namespace kvship
