#include "tests/e2e/netns_link.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

constexpr int kTickMs = 1;
constexpr size_t kMostPacketBytes = 64 << 10;
// Packets that wait in the link; more are lost, as in a router.
constexpr size_t kMostWaiting = 10'000;

absl::Status NotPermitted(absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat(what, ": ", std::strerror(errno)));
}

sockaddr SocketAddress(const std::string& address) {
  sockaddr_in in = {};
  in.sin_family = AF_INET;
  inet_pton(AF_INET, address.c_str(), &in.sin_addr);
  sockaddr out;
  std::memcpy(&out, &in, sizeof(out));
  return out;
}

// Gives the interface `address` in a network of four, where it has one, and switches it on.
absl::Status SwitchOn(const char* interface, const std::string& address) {
  const int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request = {};
  std::strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
  bool done = true;
  if (!address.empty()) {
    request.ifr_addr = SocketAddress(address);
    done = ioctl(control, SIOCSIFADDR, &request) == 0;
    request.ifr_netmask = SocketAddress("255.255.255.252");
    done = done && ioctl(control, SIOCSIFNETMASK, &request) == 0;
  }
  request.ifr_flags = IFF_UP;
  done = done && ioctl(control, SIOCSIFFLAGS, &request) == 0;
  absl::Status status =
      done ? absl::OkStatus() : NotPermitted(absl::StrCat("switching on ", interface));
  close(control);
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<NetnsLink>> NetnsLink::Create() {
  std::unique_ptr<NetnsLink> link(new NetnsLink());
  for (size_t end = 0; end < 2; ++end) {
    absl::Status made;
    // A thread has a network namespace of its own; this one ends with its work done.
    std::thread([&] { made = link->MakeEnd(end); }).join();
    RETURN_IF_ERROR(made);
  }
  link->thread_ = std::thread([raw = link.get()] { raw->Run(); });
  return link;
}

NetnsLink::~NetnsLink() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
  for (const End& end : ends_) {
    if (end.device >= 0) close(end.device);
    if (end.netns >= 0) close(end.netns);
  }
}

std::string NetnsLink::AddressOf(size_t end) { return absl::StrCat("10.77.0.", end + 1); }

absl::Status NetnsLink::MakeEnd(size_t index) {
  End& end = ends_[index];
  if (unshare(CLONE_NEWNET) != 0) return NotPermitted("making a network namespace");
  end.netns = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  end.device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (end.device < 0) return NotPermitted("opening /dev/net/tun");
  ifreq request = {};
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  std::strncpy(request.ifr_name, "link", IFNAMSIZ - 1);
  if (ioctl(end.device, TUNSETIFF, &request) != 0) return NotPermitted("making a TUN device");
  RETURN_IF_ERROR(SwitchOn("link", AddressOf(index)));
  return SwitchOn("lo", "");
}

void NetnsLink::In(size_t end, const std::function<void()>& work) const {
  std::thread([&] {
    if (setns(ends_[end].netns, CLONE_NEWNET) == 0) work();
  }).join();
}

void NetnsLink::Run() {
  while (!stop_) {
    pollfd polled[2] = {{ends_[0].device, POLLIN, 0}, {ends_[1].device, POLLIN, 0}};
    poll(polled, 2, kTickMs);
    for (size_t from = 0; from < 2; ++from) {
      if (polled[from].revents != 0) Read(from);
      Write(from);
    }
  }
}

void NetnsLink::Read(size_t from) {
  char buffer[kMostPacketBytes];
  const ssize_t received = read(ends_[from].device, buffer, sizeof(buffer));
  if (received <= 0) return;
  std::deque<Packet>& packets = ends_[from].packets;
  const bool lost =
      cut_ || UniformUnit(/*seed=*/5, num_draws_++) < loss_ || packets.size() >= kMostWaiting;
  if (lost) {
    ++num_lost_packets_;
  } else {
    packets.push_back({.due = MonotonicNow() + absl::Milliseconds(delay_ms_.load()),
                       .bytes = std::string(buffer, static_cast<size_t>(received))});
  }
}

void NetnsLink::Write(size_t from) {
  std::deque<Packet>& packets = ends_[from].packets;
  while (!packets.empty() && packets.front().due <= MonotonicNow()) {
    const std::string& bytes = packets.front().bytes;
    // One that the other end does not take is lost.
    if (write(ends_[1 - from].device, bytes.data(), bytes.size()) < 0) ++num_lost_packets_;
    packets.pop_front();
  }
}

}  // namespace kvship
