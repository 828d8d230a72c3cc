// HostPort is "HOST:PORT", as flags, URLs and the header Host have it. Pure functions.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

struct HostPort {
  std::string host;  // a name or an address, that of IPv6 without its brackets; may be empty
  int port = -1;     // -1: none
};

// Reads "HOST:PORT" or "HOST", where HOST is a name, an address of IPv4, one of IPv6 in brackets,
// or empty; nullopt for anything else.
std::optional<HostPort> ReadHostPort(absl::string_view text);

// Reads "127.0.0.1:50051", "[::1]:50051" or ":50051", all interfaces of IPv4 and IPv6; port 0 is
// any free one. InvalidArgument naming `flag` and the text for anything else.
absl::StatusOr<HostPort> ParseListenAddress(const std::string& flag, const std::string& text);

// Returns whether what ReadHostPort reads is reachable from this machine only: 127.0.0.0/8, ::1 or
// localhost.
bool IsLoopback(absl::string_view address);

// The error for a port that cannot be bound.
absl::Status CannotListen(const std::string& flag, const std::string& address);

}  // namespace kvship
