#include "rpc/tls.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cstring>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "rpc/tls_copies.h"

namespace kvship {
namespace {

using grpc::experimental::FileWatcherCertificateProvider;

constexpr unsigned kRefreshSeconds = 1;

// What OpenSSL has just found wrong with `path`.
absl::Status Unusable(const std::string& path, absl::string_view wanted) {
  const unsigned long error = ERR_peek_error();
  const char* reason = ERR_SYSTEM_ERROR(error) ? std::strerror(ERR_GET_REASON(error))
                                               : ERR_reason_error_string(error);
  ERR_clear_error();
  return absl::InvalidArgumentError(absl::StrCat("'", path, "' cannot be used for TLS (",
                                                 reason == nullptr ? "unknown" : reason,
                                                 "); wanted ", wanted));
}

absl::Status UseIdentity(const TlsFiles& files, SSL_CTX* context) {
  // OpenSSL would ask the terminal for a key's password.
  SSL_CTX_set_default_passwd_cb(context, [](char*, int, int, void*) { return 0; });
  if (SSL_CTX_use_certificate_chain_file(context, files.certificate.c_str()) != 1) {
    return Unusable(files.certificate, "a PEM file with a certificate");
  }
  if (SSL_CTX_use_PrivateKey_file(context, files.key.c_str(), SSL_FILETYPE_PEM) != 1) {
    return Unusable(files.key, absl::StrCat("a PEM file with the key of ", files.certificate));
  }
  return absl::OkStatus();
}

// A server's context. Looks at all files that are set, for gRPC tells of a bad one only when a peer
// connects.
absl::StatusOr<std::shared_ptr<SSL_CTX>> UseFiles(const TlsFiles& files) {
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  // The chain is what the certificate's file has, and nothing of `ca`.
  SSL_CTX_set_mode(context.get(), SSL_MODE_NO_AUTO_CHAIN);
  if (!files.certificate.empty()) RETURN_IF_ERROR(UseIdentity(files, context.get()));
  if (!files.ca.empty() &&
      SSL_CTX_load_verify_locations(context.get(), files.ca.c_str(), nullptr) != 1) {
    return Unusable(files.ca, "a PEM file with certificates of authorities");
  }
  return context;
}

absl::StatusOr<std::shared_ptr<FileWatcherCertificateProvider>> Watch(const TlsFiles& files) {
  ASSIGN_OR_RETURN(const TlsFiles copies, CopiesOf(files, UseFiles));
  return std::make_shared<FileWatcherCertificateProvider>(copies.key, copies.certificate, copies.ca,
                                                          kRefreshSeconds);
}

absl::Time ToTime(const ASN1_TIME* time) {
  std::tm utc = {};
  ASN1_TIME_to_tm(time, &utc);
  return absl::FromTM(utc, absl::UTCTimeZone());
}

}  // namespace

absl::StatusOr<CertificateValidity> ReadCertificateValidity(const std::string& path) {
  const std::unique_ptr<BIO, decltype(&BIO_free)> file(BIO_new_file(path.c_str(), "r"), BIO_free);
  const std::unique_ptr<X509, decltype(&X509_free)> certificate(
      file ? PEM_read_bio_X509(file.get(), nullptr, nullptr, nullptr) : nullptr, X509_free);
  if (certificate == nullptr) return Unusable(path, "a PEM file with a certificate");
  return CertificateValidity{.begin = ToTime(X509_get0_notBefore(certificate.get())),
                             .end = ToTime(X509_get0_notAfter(certificate.get()))};
}

std::optional<TlsInUse> FindTlsInUse() {
  std::optional<TlsInUse> found;
  for (const auto& [paths, are_current] : AllTlsCopiesInUse()) {
    if (!found.has_value()) found.emplace();
    found->is_current &= are_current;
    if (paths.certificate.empty()) continue;
    const auto validity = ReadCertificateValidity(paths.certificate);
    if (!validity.ok()) continue;
    if (!found->validity || validity->end < found->validity->end) found->validity = *validity;
  }
  return found;
}

absl::StatusOr<TlsContexts> ServerTlsContexts(const TlsFiles& files) {
  RETURN_IF_ERROR(CopiesOf(files, UseFiles).status());
  return [files] { return ContextOfCopies(files); };
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerTls(const TlsFiles& files) {
  ASSIGN_OR_RETURN(const auto watched, Watch(files));
  grpc::experimental::TlsServerCredentialsOptions options(watched);
  options.watch_identity_key_cert_pairs();
  if (!files.ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ChannelTls(const TlsFiles& files) {
  ASSIGN_OR_RETURN(const auto watched, Watch(files));
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(watched);
  options.watch_root_certs();
  if (!files.certificate.empty()) options.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(options);
}

}  // namespace kvship
