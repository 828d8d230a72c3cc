// TLS credentials from PEM files, for servers and channels. gRPC credentials reread the files about
// once a second, so that certificates can be replaced without a restart: connections made after
// that use the new one. Unusable files then change nothing. Thread safe.
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

// The state of this process' gRPC credentials.
struct TlsInUse {
  // Whether the credentials match the files; false if the files are unusable and the previous
  // content stays in use.
  bool is_current = true;
  // Validity of the certificate; of the first to expire if credentials have different ones.
  std::optional<CertificateValidity> validity;
};

// Returns nullopt if there are no credentials.
std::optional<TlsInUse> FindTlsInUse();

// Makes a server's context with the certificate and key, for TLS 1.2 and 1.3. Requests no
// certificate from peers. InvalidArgument naming the unusable file and why.
absl::StatusOr<std::shared_ptr<SSL_CTX>> ServerTlsContext(const TlsFiles& files);

// Makes a server's credentials; if `ca` is set, peers need a certificate that it signed. Errors: as
// ServerTlsContext.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerTls(const TlsFiles& files);

// Makes a channel's credentials: the server must have a certificate signed by `ca` for the name
// that is dialled. If `certificate` and `key` are set, they are presented to it. Errors: as
// ServerTlsContext.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ChannelTls(const TlsFiles& files);

}  // namespace kvship
