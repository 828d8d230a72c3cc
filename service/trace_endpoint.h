// TraceEndpoint is where an OpenTelemetry collector takes spans, as --otlp_endpoint gives it. A
// plain value.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace kvship {

struct TraceEndpoint {
  std::string url;  // for messages
  bool is_https = false;
  std::string host;  // a name or an address, that of IPv6 without its brackets
  int port = 0;
  std::string path;
};

// Parses "http://HOST:PORT", which may be https, lack the port (80, or 443 of https) and have a
// path; spans go to its /v1/traces. InvalidArgument naming --otlp_endpoint for anything else.
absl::StatusOr<TraceEndpoint> ParseTraceEndpoint(const std::string& text);

}  // namespace kvship
