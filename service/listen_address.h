// Parses the listen addresses of flags: "host:port". Pure functions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

struct ListenAddress {
  std::string host;  // empty: all interfaces, of IPv4 and IPv6
  int port = 0;      // 0: any free port
};

// Parses "127.0.0.1:50051", "[::1]:50051" or ":50051". InvalidArgument naming `flag` and the text
// for anything else.
absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& flag, const std::string& text);

// The host of "host:port" or "host", in lower case and without brackets; not checked.
std::string HostOf(absl::string_view address);

// Returns whether `host`, an address or a name, is reachable from this machine only: 127.0.0.0/8,
// ::1 or localhost.
bool IsLoopback(const std::string& host);

// The error for a port that cannot be bound.
absl::Status CannotListen(const std::string& flag, const std::string& address);

}  // namespace kvship
