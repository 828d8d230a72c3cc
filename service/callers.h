// Callers authenticates and authorizes the callers of a service, by certificate and by token, and
// names them for logs and limits. Thread safe.
#pragma once

#include <grpcpp/server_context.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "service/api_tokens.h"

namespace kvship {

class Callers {
 public:
  // `allowed_peers` are certificate names; empty: all that the port accepts. `tokens` may be null:
  // no token is required.
  Callers(std::vector<std::string> allowed_peers, std::unique_ptr<ApiTokens> tokens)
      : allowed_peers_(std::move(allowed_peers)), tokens_(std::move(tokens)) {}

  // Returns the caller's name: that of its token if tokens are required, else the first name of its
  // certificate, else empty. PermissionDenied for another certificate, Unauthenticated without a
  // known token; both say what was wanted.
  absl::StatusOr<std::string> Check(const grpc::ServerContextBase& context) const;

  // As Check, by an "authorization" header alone.
  absl::StatusOr<std::string> CheckToken(absl::string_view authorization) const;

  ApiTokens* tokens() const { return tokens_.get(); }  // null: no token is required

 private:
  const std::vector<std::string> allowed_peers_;
  const std::unique_ptr<ApiTokens> tokens_;
};

}  // namespace kvship
