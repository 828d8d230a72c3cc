#include "service/callers.h"

#include <grpc/grpc_security_constants.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvship {
namespace {

constexpr char kAuthorization[] = "authorization";
constexpr absl::string_view kBearer = "Bearer ";

// The names that a connection's certificate is for: its DNS names and URIs, or the common name
// where it has none of these (RFC 6125, section 6.4.4). None without a certificate.
std::vector<std::string> PeerNames(const grpc::AuthContext& context) {
  std::vector<std::string> names;
  const auto add = [&](const char* property) {
    for (const grpc::string_ref& value : context.FindPropertyValues(property)) {
      names.emplace_back(value.data(), value.size());
    }
  };
  add(GRPC_PEER_DNS_PROPERTY_NAME);
  add(GRPC_PEER_URI_PROPERTY_NAME);
  if (names.empty()) add(GRPC_X509_CN_PROPERTY_NAME);
  return names;
}

}  // namespace

absl::StatusOr<std::string> Callers::Check(const grpc::ServerContextBase& context) const {
  const std::vector<std::string> names = PeerNames(*context.auth_context());
  const bool allowed = allowed_peers_.empty() ||
                       std::find_first_of(names.begin(), names.end(), allowed_peers_.begin(),
                                          allowed_peers_.end()) != names.end();
  if (!allowed) {
    return absl::PermissionDeniedError(
        absl::StrCat("the caller's certificate is for [", absl::StrJoin(names, ", "),
                     "]; wanted one for ", absl::StrJoin(allowed_peers_, " or ")));
  }
  if (tokens_ == nullptr) return names.empty() ? "" : names.front();
  const auto header = context.client_metadata().find(kAuthorization);
  if (header == context.client_metadata().end()) return CheckToken("");
  return CheckToken({header->second.data(), header->second.size()});
}

absl::StatusOr<std::string> Callers::CheckToken(absl::string_view authorization) const {
  if (tokens_ == nullptr) return "";
  if (!absl::StartsWithIgnoreCase(authorization, kBearer)) {
    return absl::UnauthenticatedError(
        "the request has no API token; wanted the header 'authorization: Bearer TOKEN'");
  }
  return tokens_->ClientOf(absl::StripAsciiWhitespace(authorization.substr(kBearer.size())));
}

}  // namespace kvship
