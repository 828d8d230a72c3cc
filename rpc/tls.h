// TLS from PEM files, for servers and channels. The files are reread about once a second, so that
// certificates can be replaced without a restart: connections made after that use the new one.
// Unusable files then change nothing. Thread safe.
#pragma once

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <openssl/ssl.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace kvship {

struct TlsFiles {
  std::string certificate = {};  // our own, followed by the intermediate ones
  std::string key = {};          // of the certificate
  std::string ca = {};           // the CAs that sign peers' certificates
};

struct CertificateValidity {
  absl::Time begin;
  absl::Time end;
};

// Reads the validity of the first certificate in a PEM file. InvalidArgument naming the file if it
// has none.
absl::StatusOr<CertificateValidity> ReadCertificateValidity(const std::string& path);

// The state of this process' TLS.
struct TlsInUse {
  // Whether the credentials match the files; false if the files are unusable and the previous
  // content stays in use.
  bool is_current = true;
  // Validity of the certificate; of the first to expire if there are different ones.
  std::optional<CertificateValidity> validity;
};

// Returns nullopt if there is no TLS.
std::optional<TlsInUse> FindTlsInUse();

// Makes a server's credentials; if `ca` is set, peers need a certificate that it signed.
// InvalidArgument naming the unusable file and why.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerTls(const TlsFiles& files);

// Returns the context for the next connection to a server that does not speak gRPC.
using TlsContexts = std::function<std::shared_ptr<SSL_CTX>()>;

// Makes contexts with the certificate of ServerTls for the same files, for TLS 1.2 and 1.3. They
// request no certificate from peers. Errors: as ServerTls.
absl::StatusOr<TlsContexts> ServerTlsContexts(const TlsFiles& files);

// Makes a channel's credentials: the server must have a certificate signed by `ca` for the name
// that is dialled. If `certificate` and `key` are set, they are presented to it. Errors: as
// ServerTls.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ChannelTls(const TlsFiles& files);

}  // namespace kvship
