// PortSecurity holds a server's flags about the security of its ports: the certificate, whose
// certificates are accepted, and whether ports may be open to other machines without these. A
// value.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "rpc/tls.h"

namespace kvship {

struct PortSecurity {
  TlsFiles tls = {};                            // `ca` is for clients. All empty: plain text
  std::vector<std::string> allowed_peers = {};  // names of client certificates; empty: all of `ca`
  // Allows ports open to other machines in plain text and to anonymous callers.
  bool insecure = false;

  bool has_tls() const { return !tls.certificate.empty(); }

  // InvalidArgument naming incompatible flags.
  absl::Status Validate() const;

  // Makes the gRPC port's credentials; null: plain text. Errors as ServerTls, naming the flags.
  absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> Credentials() const;

  // Checks that a port open to other machines has TLS and authenticates callers. FailedPrecondition
  // otherwise, naming `flag` and the missing flags; `callers` are the flags one of which
  // authenticates callers, and `are_known` whether one of them is set.
  absl::Status CheckListen(const std::string& flag, const std::string& address,
                           const std::string& callers, bool are_known) const;
};

}  // namespace kvship
