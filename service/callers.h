// Callers decides who may call a service, by certificate and by token, and what a caller is called
// in logs and limits. Thread safe.
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
  // `allowed_peers` are names of certificates; none: all that the port lets in. `tokens` may be
  // null: none are wanted.
  Callers(std::vector<std::string> allowed_peers, std::unique_ptr<ApiTokens> tokens)
      : allowed_peers_(std::move(allowed_peers)), tokens_(std::move(tokens)) {}

  // The caller's name: its token's, where tokens are wanted; otherwise its certificate's first one;
  // empty where it has none. PermissionDenied for another certificate, Unauthenticated without a
  // token that is known; both say what was wanted.
  absl::StatusOr<std::string> Check(const grpc::ServerContextBase& context) const;

  // The same by an "authorization" header alone.
  absl::StatusOr<std::string> CheckToken(absl::string_view authorization) const;

  ApiTokens* tokens() const { return tokens_.get(); }  // null: none are wanted

 private:
  const std::vector<std::string> allowed_peers_;
  const std::unique_ptr<ApiTokens> tokens_;
};

}  // namespace kvship
