// A file of given bytes that has a path and lies in memory alone.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "tests/fuzz/require.h"

namespace kvship {

class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t num_bytes) : fd_(memfd_create("input", MFD_CLOEXEC)) {
    Require(fd_ >= 0 && write(fd_, data, num_bytes) == static_cast<ssize_t>(num_bytes),
            "the system has memory for the input");
  }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  const int fd_;
};

}  // namespace kvship
