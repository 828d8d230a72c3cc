#include "rpc/tls_copies.h"

#include <fcntl.h>
#include <openssl/ssl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/read_file.h"
#include "base/start_thread.h"
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

// Not thread safe.
class TlsCopies {
 public:
  TlsCopies(const TlsFiles& files, UseTlsFiles use) : files_(files), use_(use) {}

  // Why the files cannot be used as they are; the copies stay as they were then.
  absl::Status Update();

  TlsFiles paths() const { return AsTlsFiles(copies_); }
  const std::shared_ptr<SSL_CTX>& context() const { return context_; }
  // Whether the last Update had no error.
  bool are_current() const { return are_current_; }

 private:
  absl::Status Adopt(const OfEach<std::string>& contents);

  const TlsFiles files_;
  const UseTlsFiles use_;
  OfEach<std::string> contents_;  // of the copies
  MemoryFiles copies_;
  std::shared_ptr<SSL_CTX> context_;  // of the copies; shared with the connections made with it
  bool are_current_ = true;
};

absl::Status TlsCopies::Update() {
  const OfEach<std::string> paths = PathsOf(files_);
  OfEach<std::string> contents;
  for (size_t i = 0; i < paths.size(); ++i) {
    contents[i] = ReadFile(paths[i]).value_or("");
  }
  absl::Status status = contents == contents_ ? absl::OkStatus() : Adopt(contents);
  are_current_ = status.ok();
  return status;
}

absl::Status TlsCopies::Adopt(const OfEach<std::string>& contents) {
  RETURN_IF_ERROR(use_(files_).status());
  MemoryFiles next;
  const OfEach<std::string> paths = PathsOf(files_);
  for (size_t i = 0; i < paths.size(); ++i) {
    if (paths[i].empty()) continue;
    next[i] = std::make_unique<MemoryFile>();
    RETURN_IF_ERROR(next[i]->Write(contents[i]));
  }
  // What was read may be half of what has been written since.
  ASSIGN_OR_RETURN(context_, use_(AsTlsFiles(next)));
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

// All copies, and the thread that brings them up to date. It ends before what it uses, the log and
// OpenSSL, which have been made before.
class AllTlsCopies {
 public:
  AllTlsCopies() {
    OPENSSL_init_ssl(0, nullptr);
    PrepareLog();
  }
  ~AllTlsCopies() {
    {
      std::lock_guard lock(mutex_);
      stops_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  absl::StatusOr<TlsFiles> PathsFor(const TlsFiles& files, UseTlsFiles use) {
    std::lock_guard lock(mutex_);
    auto at = copies_.find(PathsOf(files));
    if (at == copies_.end()) {
      auto made = std::make_unique<TlsCopies>(files, use);
      RETURN_IF_ERROR(made->Update());
      at = copies_.emplace(PathsOf(files), std::move(made)).first;
    } else {
      RETURN_IF_ERROR(at->second->Update());
    }
    if (!thread_.joinable()) thread_ = StartThread("TLS files", [this] { UpdateAgainAndAgain(); });
    return at->second->paths();
  }

  std::shared_ptr<SSL_CTX> ContextFor(const TlsFiles& files) {
    std::lock_guard lock(mutex_);
    return copies_.at(PathsOf(files))->context();
  }

  std::vector<TlsCopiesInUse> InUse() {
    std::lock_guard lock(mutex_);
    std::vector<TlsCopiesInUse> in_use;
    for (const auto& [paths, copies] : copies_) {
      in_use.push_back({.paths = copies->paths(), .are_current = copies->are_current()});
    }
    return in_use;
  }

 private:
  void UpdateAgainAndAgain() {
    std::map<const TlsCopies*, absl::Status> told;
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, absl::ToChronoMilliseconds(kPeriod), [this] { return stops_; })) {
      std::vector<absl::Status> news;
      for (const auto& [paths, copies] : copies_) {
        const absl::Status status = copies->Update();
        if (std::exchange(told[copies.get()], status) != status && !status.ok())
          news.push_back(status);
      }
      lock.unlock();  // whoever reads the log may have stopped
      for (const absl::Status& status : news) {
        LogWarning(absl::StrCat("TLS stays as it was: ", status.message()));
      }
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stops_ = false;
  // Shared by all credentials of the same files, and never freed: gRPC does not tell when it has
  // done with them.
  std::map<OfEach<std::string>, std::unique_ptr<TlsCopies>>& copies_ =
      *new std::map<OfEach<std::string>, std::unique_ptr<TlsCopies>>;
  std::thread thread_;
};

AllTlsCopies& All() {
  static AllTlsCopies all;
  return all;
}

}  // namespace

absl::StatusOr<TlsFiles> CopiesOf(const TlsFiles& files, UseTlsFiles use) {
  RETURN_IF_ERROR(use(files).status());
  return All().PathsFor(files, use);
}

std::shared_ptr<SSL_CTX> ContextOfCopies(const TlsFiles& files) { return All().ContextFor(files); }

std::vector<TlsCopiesInUse> AllTlsCopiesInUse() { return All().InUse(); }

}  // namespace kvship
