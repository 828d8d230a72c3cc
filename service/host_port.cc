#include "service/host_port.h"

#include <arpa/inet.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace kvship {
namespace {

bool IsInName(unsigned char c) {
  return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
}

bool IsIpv6(const std::string& host) {
  in6_addr address = {};
  return inet_pton(AF_INET6, host.c_str(), &address) == 1;
}

}  // namespace

std::optional<HostPort> ReadHostPort(absl::string_view text) {
  HostPort read;
  const bool is_in_brackets = absl::ConsumePrefix(&text, "[");
  const size_t end = std::min(text.find(is_in_brackets ? ']' : ':'), text.size());
  read.host = std::string(text.substr(0, end));
  text.remove_prefix(end);
  const bool is_host = is_in_brackets ? IsIpv6(read.host) && absl::ConsumePrefix(&text, "]")
                                      : std::ranges::all_of(read.host, IsInName);
  if (!is_host) return std::nullopt;
  if (text.empty()) return read;
  // SimpleAtoi would take spaces and a sign.
  const bool is_port = absl::ConsumePrefix(&text, ":") &&
                       std::ranges::all_of(text, absl::ascii_isdigit) &&
                       absl::SimpleAtoi(text, &read.port) && read.port <= 65535;
  return is_port ? std::optional(read) : std::nullopt;
}

absl::StatusOr<HostPort> ParseListenAddress(const std::string& flag, const std::string& text) {
  const std::optional<HostPort> address = ReadHostPort(text);
  if (address && address->port >= 0) return *address;
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is '", text, "'; wanted host:port with a port from 0 to 65535"));
}

bool IsLoopback(absl::string_view address) {
  const std::string host = ReadHostPort(address).value_or(HostPort()).host;
  in_addr v4 = {};
  in6_addr v6 = {};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6);
  return absl::EqualsIgnoreCase(host, "localhost");
}

absl::Status CannotListen(const std::string& flag, const std::string& address) {
  return absl::UnavailableError(absl::StrCat("cannot listen on ", address, " (--", flag,
                                             "): the port is in use, or the address is not of "
                                             "this machine; choose another with --",
                                             flag));
}

}  // namespace kvship
