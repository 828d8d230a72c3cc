// PortSecurity is what a server's flags say about its ports: the certificate, whose certificates
// are accepted, and whether ports may be open to other machines without all that. A value.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "rpc/tls.h"

namespace kvship {

struct PortSecurity {
  TlsFiles tls = {};                            // `ca`: of clients. All empty: plain text
  std::vector<std::string> allowed_peers = {};  // names of clients' certificates; none: all of `ca`
  // Ports may be open to other machines in plain text, and to whoever comes.
  bool insecure = false;

  bool has_tls() const { return !tls.certificate.empty(); }

  // InvalidArgument naming flags that do not go together.
  absl::Status Validate() const;

  // Of the gRPC port; null: plain text. As ServerTls, naming the flags.
  absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> Credentials() const;

  // What goes to other machines needs TLS, and must know who calls. FailedPrecondition otherwise,
  // naming `flag` and those that are missing; `callers` are the flags one of which makes callers
  // known, and `are_known` whether one of them is set.
  absl::Status CheckListen(const std::string& flag, const std::string& address,
                           const std::string& callers, bool are_known) const;
};

}  // namespace kvship
