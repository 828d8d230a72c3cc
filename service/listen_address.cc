#include "service/listen_address.h"

#include <arpa/inet.h>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace kvship {

absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& flag, const std::string& text) {
  const size_t colon = text.rfind(':');
  ListenAddress address;
  if (colon == std::string::npos ||
      !absl::SimpleAtoi(absl::string_view(text).substr(colon + 1), &address.port) ||
      address.port < 0 || address.port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag, " is '", text, "'; wanted host:port with a port from 0 to 65535"));
  }
  address.host = text.substr(0, colon);
  if (absl::StartsWith(address.host, "[") && absl::EndsWith(address.host, "]")) {
    address.host = address.host.substr(1, address.host.size() - 2);
  }
  return address;
}

std::string HostOf(absl::string_view address) {
  const bool is_in_brackets = absl::ConsumePrefix(&address, "[");
  return absl::AsciiStrToLower(address.substr(0, address.find(is_in_brackets ? ']' : ':')));
}

bool IsLoopback(const std::string& host) {
  in_addr v4 = {};
  in6_addr v6 = {};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6);
  return host == "localhost";
}

absl::Status CannotListen(const std::string& flag, const std::string& address) {
  return absl::UnavailableError(absl::StrCat("cannot listen on ", address, " (--", flag,
                                             "): the port is in use, or the address is not of "
                                             "this machine; choose another with --",
                                             flag));
}

}  // namespace kvship
