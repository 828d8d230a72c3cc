#include "rpc/tls_copies.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

constexpr absl::Duration kPeriod = absl::Milliseconds(500);

// Certificate, key and authorities; of one that is not set nothing.
template <class T>
using OfEach = std::array<T, 3>;

OfEach<std::string> PathsOf(const TlsFiles& files) {
  return {files.certificate, files.key, files.ca};
}

// A file in memory, which has a path as long as it is open.
class MemoryFile {
 public:
  MemoryFile() = default;
  ~MemoryFile() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  absl::Status Write(const std::string& content) {
    descriptor_ = memfd_create("tls", MFD_CLOEXEC);
    const auto num_bytes = static_cast<ssize_t>(content.size());
    if (descriptor_ >= 0 && write(descriptor_, content.data(), content.size()) == num_bytes) {
      return absl::OkStatus();
    }
    return absl::ResourceExhaustedError(
        absl::StrCat("no room for a copy of a TLS file: ", std::strerror(errno)));
  }
  // At once for whoever opens the path; the path stays.
  void ReplaceBy(const MemoryFile& by) { dup3(by.descriptor_, descriptor_, O_CLOEXEC); }

  std::string path() const { return absl::StrCat("/proc/self/fd/", descriptor_); }

 private:
  int descriptor_ = -1;
};

using MemoryFiles = OfEach<std::unique_ptr<MemoryFile>>;

TlsFiles AsTlsFiles(const MemoryFiles& files) {
  const auto path = [](const auto& file) { return file == nullptr ? std::string() : file->path(); };
  return {.certificate = path(files[0]), .key = path(files[1]), .ca = path(files[2])};
}

class TlsCopies {
 public:
  TlsCopies(const TlsFiles& files, CheckTlsFiles check) : files_(files), check_(check) {}

  // Why the files cannot be used as they are; the copies stay as they were then.
  absl::Status Update();

  TlsFiles paths() const {
    std::lock_guard lock(mutex_);
    return AsTlsFiles(copies_);
  }

 private:
  absl::Status Adopt(const OfEach<std::string>& contents);

  const TlsFiles files_;
  const CheckTlsFiles check_;
  mutable std::mutex mutex_;
  OfEach<std::string> contents_;  // of the copies
  MemoryFiles copies_;
};

absl::Status TlsCopies::Update() {
  std::lock_guard lock(mutex_);
  const OfEach<std::string> paths = PathsOf(files_);
  OfEach<std::string> contents;
  for (size_t i = 0; i < paths.size(); ++i) {
    std::ostringstream content;  // stays empty where nothing can be read
    content << std::ifstream(paths[i]).rdbuf();
    contents[i] = content.str();
  }
  if (contents != contents_) RETURN_IF_ERROR(Adopt(contents));
  return absl::OkStatus();
}

absl::Status TlsCopies::Adopt(const OfEach<std::string>& contents) {
  RETURN_IF_ERROR(check_(files_));
  MemoryFiles next;
  const OfEach<std::string> paths = PathsOf(files_);
  for (size_t i = 0; i < paths.size(); ++i) {
    if (paths[i].empty()) continue;
    next[i] = std::make_unique<MemoryFile>();
    RETURN_IF_ERROR(next[i]->Write(contents[i]));
  }
  // What was read may be half of what has been written since.
  RETURN_IF_ERROR(check_(AsTlsFiles(next)));
  for (size_t i = 0; i < paths.size(); ++i) {
    if (copies_[i] == nullptr) {
      copies_[i] = std::move(next[i]);
    } else {
      copies_[i]->ReplaceBy(*next[i]);
    }
  }
  contents_ = contents;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TlsFiles> CopiesOf(const TlsFiles& files, CheckTlsFiles check) {
  static std::mutex mutex;
  // Shared by all credentials of the same files, as gRPC does not tell when it has done with them.
  static auto* const all = new std::map<OfEach<std::string>, std::unique_ptr<TlsCopies>>;
  std::lock_guard lock(mutex);
  std::unique_ptr<TlsCopies>& known = (*all)[PathsOf(files)];
  if (known != nullptr) {
    RETURN_IF_ERROR(known->Update());
    return known->paths();
  }
  auto copies = std::make_unique<TlsCopies>(files, check);
  RETURN_IF_ERROR(copies->Update());
  known = std::move(copies);
  std::thread([copies = known.get()] {
    absl::Status told;
    while (true) {
      absl::SleepFor(kPeriod);
      const absl::Status status = copies->Update();
      if (!status.ok() && status != told) {
        LogWarning(absl::StrCat("TLS stays as it was: ", status.message()));
      }
      told = status;
    }
  }).detach();
  return known->paths();
}

}  // namespace kvship
