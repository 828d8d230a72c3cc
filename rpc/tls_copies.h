// Copies, in memory, of the PEM files that gRPC is given. It reads its files again and again by
// itself, ends the process where it finds one empty, and has no certificate while one and its key
// do not fit. The copies only ever hold what can be used, and what does not speak gRPC has an
// OpenSSL context that was made of them. Thread safe.
#pragma once

#include <openssl/ssl.h>

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "rpc/tls.h"

namespace kvship {

// What is made of files, or why they cannot be used, naming one.
using UseTlsFiles = absl::StatusOr<std::shared_ptr<SSL_CTX>> (*)(const TlsFiles&);

// The copies' paths, where `files` are set. For as long as the process runs they are brought up to
// date twice a second; what cannot be used changes nothing and is a warning in the log. Errors: as
// of `use`, or ResourceExhausted if no copy can be made.
absl::StatusOr<TlsFiles> CopiesOf(const TlsFiles& files, UseTlsFiles use);

// What `use` made of the present copies of `files`, for which CopiesOf has been called.
std::shared_ptr<SSL_CTX> ContextOfCopies(const TlsFiles& files);

struct TlsCopiesInUse {
  TlsFiles paths;
  // Whether they are what the files were when these were last looked at.
  bool are_current = true;
};

// All that CopiesOf has made.
std::vector<TlsCopiesInUse> AllTlsCopiesInUse();

}  // namespace kvship
