#include "service/port_security.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/host_port.h"
#include "service/option_range.h"

namespace kvship {

absl::Status PortSecurity::Validate() const {
  if (tls.certificate.empty() != tls.key.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--tls_cert is '", tls.certificate,
                                                   "' and --tls_key '", tls.key,
                                                   "'; wanted both or neither"));
  }
  if (!tls.ca.empty() && tls.certificate.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tls_client_ca is '", tls.ca, "'; wanted --tls_cert and --tls_key with it"));
  }
  if (!allowed_peers.empty() && tls.ca.empty()) {
    return absl::InvalidArgumentError("--allowed_peers is set; wanted --tls_client_ca with it");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> PortSecurity::Credentials() const {
  if (!has_tls()) return nullptr;
  auto credentials = ServerTls(tls);
  if (credentials.ok()) return credentials;
  return OfFlag(tls.ca.empty() ? "--tls_cert, --tls_key" : "--tls_cert, --tls_key, --tls_client_ca",
                credentials.status());
}

absl::Status PortSecurity::CheckListen(const std::string& flag, const std::string& address,
                                       const std::string& callers, bool are_known) const {
  RETURN_IF_ERROR(ParseListenAddress(flag, address).status());
  if (insecure || IsLoopback(address) || (has_tls() && are_known)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "--", flag, " is '", address, "', which other machines can reach, ",
      has_tls() ? "by whoever comes; wanted " + callers : "in plain text; wanted --tls_cert",
      ", a loopback address such as 127.0.0.1, or --insecure, which allows it"));
}

}  // namespace kvship
