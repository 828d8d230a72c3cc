// WatchedTlsContext is the OpenSSL context for new connections of a server that does not speak
// gRPC: made of the certificate's files, and again when they change. Used by one thread.
#pragma once

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "rpc/tls.h"
#include "service/file_version.h"

namespace kvship {

class WatchedTlsContext {
 public:
  // Errors: as ServerTlsContext.
  static absl::StatusOr<std::unique_ptr<WatchedTlsContext>> Load(const TlsFiles& files);

  // That of the files as they are; of the last ones that could be used, where they cannot.
  std::shared_ptr<SSL_CTX> Get();

 private:
  using Versions = std::pair<FileVersion, FileVersion>;

  explicit WatchedTlsContext(const TlsFiles& files) : files_(files), versions_(VersionsNow()) {}
  Versions VersionsNow() const {
    return {FileVersion::Of(files_.certificate), FileVersion::Of(files_.key)};
  }

  const TlsFiles files_;
  Versions versions_;
  bool unread_ = false;  // they could not be used, if only for lack of descriptors: again next time
  std::shared_ptr<SSL_CTX> context_;  // shared with the connections made with it
};

}  // namespace kvship
