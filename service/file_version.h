// FileVersion detects that a file's content has changed, without reading it. A value.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>

namespace kvship {

struct FileVersion {
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t num_bytes = 0;
  int64_t changed_seconds = 0;
  int64_t changed_nanoseconds = 0;

  // Follows symbolic links: Kubernetes updates a volume's files by renaming one. All 0 if there is
  // no file.
  static FileVersion Of(const std::string& path) {
    struct stat s = {};
    if (stat(path.c_str(), &s) != 0) return {};
    return {s.st_dev, s.st_ino, s.st_size, s.st_ctim.tv_sec, s.st_ctim.tv_nsec};
  }

  bool operator==(const FileVersion&) const = default;
};

}  // namespace kvship
