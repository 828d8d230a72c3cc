// TLS from PEM files, for servers and channels. For gRPC's credentials the files are read again
// about once a second, so that a certificate is replaced without a restart: connections made after
// that have the new one. Files that cannot be used then change nothing. Thread safe.
#pragma once

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <openssl/ssl.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace kvship {

struct TlsFiles {
  std::string certificate = {};  // ours, with the intermediate ones after it
  std::string key = {};          // of the certificate
  std::string ca = {};           // who signs the certificates of peers
};

struct CertificateValidity {
  absl::Time begin;
  absl::Time end;
};

// Of the first certificate in a PEM file. InvalidArgument naming the file that has none.
absl::StatusOr<CertificateValidity> ReadCertificateValidity(const std::string& path);

// What gRPC's credentials of this process are made of.
struct TlsInUse {
  // Whether it is what the files hold; false where that cannot be used, and what was there before
  // goes on.
  bool is_current = true;
  // Of the certificate; of the first to expire, where credentials have different ones.
  std::optional<CertificateValidity> validity;
};

// None where there are no credentials.
std::optional<TlsInUse> FindTlsInUse();

// A server's context with the certificate and key, for TLS 1.2 and 1.3. Peers are asked for no
// certificate. InvalidArgument naming the file that cannot be used and why.
absl::StatusOr<std::shared_ptr<SSL_CTX>> ServerTlsContext(const TlsFiles& files);

// A server's credentials; where `ca` is set, peers need a certificate that it signed. Errors: as
// ServerTlsContext.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerTls(const TlsFiles& files);

// A channel's credentials: the server must have a certificate that `ca` signed, for the name it is
// called by. Where `certificate` and `key` are set they are shown to it. Errors: as
// ServerTlsContext.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ChannelTls(const TlsFiles& files);

}  // namespace kvship
