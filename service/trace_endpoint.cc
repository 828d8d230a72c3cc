#include "service/trace_endpoint.h"

#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "service/host_port.h"

namespace kvship {
namespace {

// The text is not shown where it may hold a password.
absl::Status WrongEndpoint(absl::string_view text) {
  const std::string found = absl::StrContains(text, '@')
                                ? "has an '@', as of a user and a password, which are not sent"
                                : absl::StrCat("is '", text, "'");
  return absl::InvalidArgumentError(
      absl::StrCat("--otlp_endpoint, or OTEL_EXPORTER_OTLP_ENDPOINT where that is empty, ", found,
                   "; wanted http://HOST:PORT of an OTLP collector, as http://127.0.0.1:4318"));
}

// Of what is sent as it is: a space would end it.
bool IsInPath(char c) { return absl::ascii_isgraph(c) && c != '?' && c != '#'; }

}  // namespace

absl::StatusOr<TraceEndpoint> ParseTraceEndpoint(const std::string& text) {
  if (absl::StrContains(text, '@')) return WrongEndpoint(text);
  absl::string_view rest = text;
  TraceEndpoint endpoint;
  endpoint.is_https = absl::ConsumePrefix(&rest, "https://");
  if (!endpoint.is_https && !absl::ConsumePrefix(&rest, "http://")) return WrongEndpoint(text);
  const absl::string_view authority = rest.substr(0, rest.find('/'));
  const std::optional<HostPort> server = ReadHostPort(authority);
  if (!server || server->host.empty() || server->port == 0) return WrongEndpoint(text);
  endpoint.host = server->host;
  endpoint.port = server->port > 0 ? server->port : endpoint.is_https ? 443 : 80;
  rest.remove_prefix(authority.size());
  if (!std::ranges::all_of(rest, IsInPath)) return WrongEndpoint(text);
  endpoint.path = absl::StrCat(absl::StripSuffix(rest, "/"), "/v1/traces");
  endpoint.url = absl::StrCat(absl::StripSuffix(text, "/"), "/v1/traces");
  return endpoint;
}

}  // namespace kvship
