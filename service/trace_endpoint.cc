#include "service/trace_endpoint.h"

#include <arpa/inet.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

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

bool IsInName(char c) { return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.'; }

// Of what is sent as it is: a space would end it.
bool IsInPath(char c) { return absl::ascii_isgraph(c) && c != '?' && c != '#'; }

bool IsIpv6(const std::string& host) {
  in6_addr address = {};
  return inet_pton(AF_INET6, host.c_str(), &address) == 1;
}

// Reads "HOST", "HOST:PORT", "[IPV6]" or "[IPV6]:PORT". Returns whether it is one of them.
bool ReadHostAndPort(absl::string_view text, TraceEndpoint& endpoint) {
  const bool is_in_brackets = absl::ConsumePrefix(&text, "[");
  const size_t end = std::min(text.find(is_in_brackets ? ']' : ':'), text.size());
  endpoint.host = std::string(text.substr(0, end));
  text.remove_prefix(end);
  if (is_in_brackets) {
    if (!absl::ConsumePrefix(&text, "]") || !IsIpv6(endpoint.host)) return false;
  } else if (endpoint.host.empty() || !std::ranges::all_of(endpoint.host, IsInName)) {
    return false;
  }
  if (text.empty()) return true;
  // SimpleAtoi would take spaces and a sign.
  return absl::ConsumePrefix(&text, ":") && std::ranges::all_of(text, absl::ascii_isdigit) &&
         absl::SimpleAtoi(text, &endpoint.port) && endpoint.port > 0 && endpoint.port <= 65535;
}

}  // namespace

absl::StatusOr<TraceEndpoint> ParseTraceEndpoint(const std::string& text) {
  if (absl::StrContains(text, '@')) return WrongEndpoint(text);
  absl::string_view rest = text;
  TraceEndpoint endpoint;
  endpoint.is_https = absl::ConsumePrefix(&rest, "https://");
  if (!endpoint.is_https && !absl::ConsumePrefix(&rest, "http://")) return WrongEndpoint(text);
  endpoint.port = endpoint.is_https ? 443 : 80;
  const absl::string_view host_and_port = rest.substr(0, rest.find('/'));
  if (!ReadHostAndPort(host_and_port, endpoint)) return WrongEndpoint(text);
  rest.remove_prefix(host_and_port.size());
  if (!std::ranges::all_of(rest, IsInPath)) return WrongEndpoint(text);
  endpoint.path = absl::StrCat(absl::StripSuffix(rest, "/"), "/v1/traces");
  endpoint.url = absl::StrCat(absl::StripSuffix(text, "/"), "/v1/traces");
  return endpoint;
}

}  // namespace kvship
