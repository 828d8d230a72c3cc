#include "tests/e2e/fault_proxy.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace kvship {
namespace {

// How often the thread looks at what it was told.
constexpr int kTickMs = 5;
constexpr size_t kReadBytes = 16 << 10;

sockaddr_in Loopback(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

void Prepare(int socket) {
  const int yes = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
  fcntl(socket, F_SETFL, O_NONBLOCK);
}

}  // namespace

const char* FaultProxy::NameOf(Kind kind) {
  switch (kind) {
    case Kind::kCut: return "cut";
    case Kind::kTruncate: return "truncated";
    case Kind::kDelay: return "delayed";
    case Kind::kCorrupt: return "corrupted";
    case Kind::kLose: return "lost";
    case Kind::kRepeat: return "repeated";
    case Kind::kSwap: return "swapped";
    case Kind::kSwallow: return "swallowed";
    case Kind::kStall: return "stalled";
  }
  return "";
}

FaultProxy::FaultProxy(int target_port) : target_port_(target_port) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = Loopback(0);
  socklen_t length = sizeof(address);
  const bool listens =
      bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
      listen(listener_, 64) == 0 &&
      getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) == 0;
  if (listens) port_ = ntohs(address.sin_port);  // else nobody reaches it
  thread_ = std::thread([this] { Run(); });
}

FaultProxy::~FaultProxy() {
  stop_ = true;
  thread_.join();
  for (Connection& connection : connections_) Close(connection);
  close(listener_);
}

void FaultProxy::Arm(const Fault& fault) {
  std::lock_guard lock(mutex_);
  armed_ = fault;
}

bool FaultProxy::armed() const {
  std::lock_guard lock(mutex_);
  return armed_.has_value();
}

void FaultProxy::Close(Connection& connection) {
  // As who pulls a cable: what is still on its way is lost.
  const linger at_once = {.l_onoff = 1, .l_linger = 0};
  for (const int end : connection.ends) {
    if (connection.broken) setsockopt(end, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    close(end);
  }
}

void FaultProxy::Run() {
  while (!stop_) {
    std::vector<pollfd> polled = {{.fd = listener_, .events = POLLIN, .revents = 0}};
    const absl::Time now = MonotonicNow();
    for (Connection& connection : connections_) {
      for (size_t from = 0; from < 2; ++from) {
        const Way& way = connection.ways[from];
        const bool moves = !stalled_ && way.held_until <= now;
        const bool reads = moves && way.waiting.empty() && !way.has_ended;
        const bool writes = moves && !way.waiting.empty();
        polled.push_back(reads    ? pollfd{connection.ends[from], POLLIN, 0}
                         : writes ? pollfd{connection.ends[1 - from], POLLOUT, 0}
                                  : pollfd{-1, 0, 0});
      }
    }
    poll(polled.data(), polled.size(), kTickMs);
    size_t at = 1;
    for (Connection& connection : connections_) {
      for (size_t from = 0; from < 2; ++from, ++at) {
        if (polled[at].revents == 0) continue;
        if (polled[at].events == POLLIN) Read(connection, from);
        if (polled[at].events == POLLOUT) Write(connection, from);
      }
    }
    std::erase_if(connections_, [](Connection& connection) {
      const auto closes = [](const Way& way) { return way.closes && way.waiting.empty(); };
      const auto& ways = connection.ways;
      const bool done = connection.broken || closes(ways[0]) || closes(ways[1]) ||
                        (ways[0].has_ended && ways[1].has_ended);
      if (done) Close(connection);
      return done;
    });
    if (polled[0].revents != 0) Accept();
  }
}

void FaultProxy::Accept() {
  const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
  if (client < 0) return;
  const int target = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = Loopback(target_port_);
  if (connect(target, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    close(target);
    close(client);
    return;
  }
  Prepare(client);
  Prepare(target);
  connections_.push_back({.ends = {client, target}, .ways = {}, .broken = false});
}

void FaultProxy::Read(Connection& connection, size_t from) {
  char buffer[kReadBytes];
  const ssize_t received = recv(connection.ends[from], buffer, sizeof(buffer), 0);
  if (received < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (received < 0) connection.broken = true;
  if (received <= 0) {
    connection.ways[from].has_ended = true;
    shutdown(connection.ends[1 - from], SHUT_WR);
    return;
  }
  if (connection.ways[from].swallows) return;
  std::string bytes(buffer, static_cast<size_t>(received));
  MeetFault(connection, from, bytes);
  connection.ways[from].waiting = std::move(bytes);
}

void FaultProxy::Write(Connection& connection, size_t from) {
  std::string& waiting = connection.ways[from].waiting;
  const ssize_t sent =
      send(connection.ends[1 - from], waiting.data(), waiting.size(), MSG_NOSIGNAL);
  if (sent >= 0) {
    waiting.erase(0, static_cast<size_t>(sent));
  } else if (errno != EAGAIN && errno != EINTR) {
    connection.broken = true;
  }
}

void FaultProxy::MeetFault(Connection& connection, size_t from, std::string& bytes) {
  Fault fault;
  {
    std::lock_guard lock(mutex_);
    if (!armed_ || armed_->from_target != (from == 1)) return;
    // What is swapped must be here.
    const size_t least_bytes = armed_->kind == Kind::kSwap ? 2 * armed_->num_bytes : 1;
    if (armed_->after_bytes + least_bytes > bytes.size()) {
      armed_->after_bytes -= std::min(armed_->after_bytes, bytes.size());
      return;
    }
    fault = *armed_;
    armed_.reset();
  }
  ++counts_[static_cast<size_t>(fault.kind)];
  Apply(fault, fault.after_bytes, connection, from, bytes);
}

void FaultProxy::Apply(const Fault& fault, size_t at, Connection& connection, size_t from,
                       std::string& bytes) {
  const size_t num_bytes = std::min(fault.num_bytes, bytes.size() - at);
  switch (fault.kind) {
    case Kind::kCut: connection.broken = true; break;
    case Kind::kTruncate:
      connection.ways[from].closes = true;
      bytes.resize(at);
      break;
    case Kind::kDelay: connection.ways[from].held_until = MonotonicNow() + fault.time; break;
    case Kind::kCorrupt: bytes[at] = static_cast<char>(bytes[at] ^ 1 << num_bytes % 8); break;
    case Kind::kLose: bytes.erase(at, num_bytes); break;
    case Kind::kRepeat: bytes.insert(at, bytes.substr(at, num_bytes)); break;
    case Kind::kSwap:
      std::swap_ranges(bytes.begin() + at, bytes.begin() + at + num_bytes,
                       bytes.begin() + at + num_bytes);
      break;
    case Kind::kSwallow:
      connection.ways[from].swallows = true;
      bytes.resize(at);
      break;
    case Kind::kStall: stalled_ = true; break;
  }
}

}  // namespace kvship
