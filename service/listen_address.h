// A listen address as flags give it: "host:port". Pure functions.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace kvship {

struct ListenAddress {
  std::string host;
  int port = 0;  // 0: any free one
};

// "127.0.0.1:50051", "[::]:50051", ":50051" (all IPv4 interfaces). InvalidArgument naming `flag`
// and the text if it is none.
absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& flag, const std::string& text);

// Whether only this machine reaches `host`, an address or a name: 127.0.0.0/8, ::1 or localhost.
bool IsLoopback(const std::string& host);

// The error of a port that cannot be had.
absl::Status CannotListen(const std::string& flag, const std::string& address);

}  // namespace kvship
