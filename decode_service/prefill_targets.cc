#include "decode_service/prefill_targets.h"

#include <netdb.h>
#include <sys/socket.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "service/host_port.h"

namespace kvship {
namespace {

constexpr char kDns[] = "dns:///";

}  // namespace

absl::Status CheckTargets(const std::vector<std::string>& targets) {
  const auto wrong = [](absl::string_view target) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--prefill is '", target,
        "'; wanted prefill nodes, each HOST:PORT, or dns:///HOST:PORT for all addresses of HOST"));
  };
  if (targets.empty()) return wrong("");
  for (const std::string& target : targets) {
    const HostPort server = ReadHostPort(ServerNameOf(target)).value_or(HostPort());
    if (server.host.empty() || server.port <= 0) return wrong(target);
  }
  return absl::OkStatus();
}

absl::Status CheckTargetsInPlainText(const std::vector<std::string>& targets) {
  for (const std::string& target : targets) {
    if (IsLoopback(ServerNameOf(target))) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("--prefill is '", target,
                     "', to which prompts would go in plain text; wanted --prefill_tls_ca, a "
                     "loopback address such as 127.0.0.1, or --insecure, which allows it"));
  }
  return absl::OkStatus();
}

bool IsName(absl::string_view target) { return absl::StartsWith(target, kDns); }

std::set<std::string> AddressesOf(const std::string& target) {
  const HostPort server = ReadHostPort(ServerNameOf(target)).value_or(HostPort());
  const std::string port = absl::StrCat(server.port);
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(server.host.c_str(), port.c_str(), &hints, &found) != 0) return {};
  std::set<std::string> addresses;
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    char name[NI_MAXHOST];
    if (getnameinfo(a->ai_addr, a->ai_addrlen, name, sizeof(name), nullptr, 0, NI_NUMERICHOST) !=
        0) {
      continue;
    }
    const bool v6 = a->ai_family == AF_INET6;
    addresses.insert(absl::StrCat(v6 ? "ipv6:[" : "ipv4:", name, v6 ? "]:" : ":", port));
  }
  freeaddrinfo(found);
  return addresses;
}

std::string ServerNameOf(absl::string_view target) {
  return std::string(absl::StripPrefix(target, kDns));
}

}  // namespace kvship
