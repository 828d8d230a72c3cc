#include "decode_service/prefill_nodes.h"

#include <netdb.h>
#include <sys/socket.h>

#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "kvship/v1/prefill.grpc.pb.h"
#include "rpc/model_info.h"
#include "service/listen_address.h"
#include "transport/grpc_status.h"

namespace kvship {
namespace {

constexpr absl::Duration kCheckTimeout = absl::Seconds(2);

struct HostAndPort {
  std::string host;
  std::string port;  // empty: none
};

HostAndPort ReadTarget(absl::string_view target) {
  target = absl::StripPrefix(target, "dns:///");
  const size_t colon = target.rfind(':');
  if (colon == absl::string_view::npos) return {.host = std::string(target), .port = ""};
  const absl::string_view host =
      absl::StripSuffix(absl::StripPrefix(target.substr(0, colon), "["), "]");
  return {.host = std::string(host), .port = std::string(target.substr(colon + 1))};
}

// The numeric addresses "host:port" that a target stands for; none if the name is not known now.
std::set<std::string> AddressesOf(const std::string& target) {
  const auto [host, port] = ReadTarget(target);
  if (!absl::StartsWith(target, "dns:///") || port.empty()) return {target};
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return {};
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

size_t RandomBelow(size_t bound) {
  thread_local std::minstd_rand random(std::random_device{}());
  return std::uniform_int_distribution<size_t>(0, bound - 1)(random);
}

}  // namespace

absl::Status CheckTargetsInPlainText(const std::vector<std::string>& targets) {
  for (const std::string& target : targets) {
    if (IsLoopback(ReadTarget(target).host)) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("--prefill is '", target,
                     "', to which prompts would go in plain text; wanted --prefill_tls_ca, a "
                     "loopback address such as 127.0.0.1, or --insecure, which allows it"));
  }
  return absl::OkStatus();
}

PrefillNodes::PrefillNodes(Options options)
    : options_(std::move(options)), checker_([this] { CheckAgainAndAgain(); }) {}

PrefillNodes::~PrefillNodes() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stopping_.notify_all();
  checker_.join();
}

absl::StatusOr<std::shared_ptr<PrefillNode>> PrefillNodes::Choose(
    const std::set<std::string>& tried) {
  std::vector<std::shared_ptr<PrefillNode>> healthy;
  std::vector<std::string> faults;
  bool others_fit = false;
  std::lock_guard lock(mutex_);
  for (const auto& [address, entry] : entries_) {
    if (entry.health.ok() && !tried.contains(address)) {
      healthy.push_back(entry.node);
      continue;
    }
    others_fit |= !absl::IsFailedPrecondition(entry.health);
    const absl::string_view fault = entry.health.ok() ? "it was tried" : entry.health.message();
    faults.push_back(absl::StrCat(address, ": ", fault));
  }
  if (healthy.empty()) {
    const std::string message = absl::StrCat(
        "no prefill node can be reached: ",
        entries_.empty()
            ? absl::StrCat("no address found for ", absl::StrJoin(options_.targets, ","))
            : absl::StrJoin(faults, "; "));
    if (!entries_.empty() && !others_fit) return absl::FailedPreconditionError(message);
    return absl::UnavailableError(message);
  }
  const size_t first = RandomBelow(healthy.size());
  if (healthy.size() == 1) return healthy[first];
  const size_t second = (first + 1 + RandomBelow(healthy.size() - 1)) % healthy.size();
  const bool first_is_freer =
      healthy[first]->outstanding_tokens() <= healthy[second]->outstanding_tokens();
  return healthy[first_is_freer ? first : second];
}

void PrefillNodes::Lost(const PrefillNode& node, const absl::Status& why) {
  std::lock_guard lock(mutex_);
  const auto at = entries_.find(node.address());
  if (at != entries_.end()) at->second.health = why;
}

size_t PrefillNodes::num_healthy() const {
  std::lock_guard lock(mutex_);
  size_t healthy = 0;
  for (const auto& [address, entry] : entries_) healthy += entry.health.ok();
  return healthy;
}

void PrefillNodes::CheckAgainAndAgain() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    lock.unlock();
    LookUp();
    CheckAll();
    lock.lock();
    bool any_healthy = false;
    for (const auto& [address, entry] : entries_) any_healthy |= entry.health.ok();
    const absl::Duration wait =
        any_healthy ? options_.check_interval : options_.check_interval_while_none;
    stopping_.wait_for(lock, absl::ToChronoNanoseconds(wait), [this] { return stop_; });
  }
}

void PrefillNodes::LookUp() {
  std::map<std::string, std::string> addresses;  // and what the node is called there
  for (const std::string& target : options_.targets) {
    for (const std::string& address : AddressesOf(target)) {
      addresses[address] = std::string(absl::StripPrefix(target, "dns:///"));
    }
  }
  // A name server that does not answer says nothing about the nodes.
  if (addresses.empty()) return;
  std::lock_guard lock(mutex_);
  std::erase_if(entries_, [&](const auto& entry) { return !addresses.contains(entry.first); });
  for (const auto& [address, name] : addresses) {
    if (entries_.contains(address)) continue;
    PrefillConnection::Options connection = options_.connection;
    connection.server_name = name;
    entries_[address] = {std::make_shared<PrefillNode>(address, connection),
                         absl::UnavailableError("it has not answered yet")};
  }
}

void PrefillNodes::CheckAll() {
  std::vector<std::shared_ptr<PrefillNode>> nodes;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [address, entry] : entries_) nodes.push_back(entry.node);
  }
  for (const auto& node : nodes) {
    const absl::Status health = Check(*node);
    std::lock_guard lock(mutex_);
    if (stop_) return;
    const auto at = entries_.find(node->address());
    if (at == entries_.end()) continue;
    if (health.ok() != at->second.health.ok()) {
      if (health.ok()) {
        LogInfo(absl::StrCat("prefill node ", node->address(), " is healthy"));
      } else {
        LogWarning(absl::StrCat("prefill node ", node->address(), ": ", health.message()));
      }
    }
    at->second.health = health;
  }
}

absl::Status PrefillNodes::Check(PrefillNode& node) const {
  const auto stub = v1::PrefillService::NewStub(node.connection().grpc_channel());
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCheckTimeout));
  v1::PrefillServiceGetModelInfoResponse response;
  RETURN_IF_ERROR(FromGrpcStatus(stub->GetModelInfo(&context, {}, &response)));
  return CheckModelIdentity(response.model().identity(), options_.model_identity);
}

}  // namespace kvship
