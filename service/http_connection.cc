#include "service/http_connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/clock.h"

namespace kvship {
namespace {

constexpr size_t kBufferBytes = 16 << 10;  // httplib reads lines byte by byte
// A client that takes nothing for so long is given up.
constexpr absl::Duration kWriteTimeout = absl::Seconds(30);
// How long a response may take after the request's deadline, unless its handler sets another.
constexpr absl::Duration kAnswerTime = absl::Seconds(5);
// How long a client may go on sending a request that was refused; closing at once would reset the
// connection and could take the answer from it.
constexpr absl::Duration kLinger = absl::Seconds(2);
// How soon a connection that waits notices that it shall yield.
constexpr absl::Duration kYieldCheck = absl::Milliseconds(50);

}  // namespace

HttpConnection::HttpConnection(int socket, const std::shared_ptr<SSL_CTX>& tls)
    : socket_(socket), buffer_(kBufferBytes) {
  if (tls != nullptr) tls_ = std::make_unique<TlsSession>(tls, socket);
}

HttpConnection::~HttpConnection() {
  tls_.reset();
  shutdown(socket_, SHUT_WR);
  const absl::Time end = MonotonicNow() + kLinger;
  while (closes_ && WaitForClient(POLLIN, end) &&
         recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT) > 0) {
  }
}

bool HttpConnection::WaitFor(short events, absl::Time deadline) const {
  pollfd waited = {.fd = socket_, .events = events, .revents = 0};
  while (true) {
    const absl::Duration left = std::max(deadline - MonotonicNow(), absl::ZeroDuration());
    const int64_t left_ms = std::min<int64_t>(absl::ToInt64Milliseconds(left), INT32_MAX);
    const int ready = poll(&waited, 1, static_cast<int>(left_ms));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

bool HttpConnection::WaitForClient(short events, absl::Time deadline) const {
  while (!Yields()) {
    if (WaitFor(events, std::min(deadline, MonotonicNow() + kYieldCheck))) return true;
    if (MonotonicNow() >= deadline) return false;
  }
  return false;
}

bool HttpConnection::Handshake(absl::Time deadline) {
  while (tls_ != nullptr) {
    const int done = tls_->Handshake();
    if (done == 1) return true;
    if (done == 0 || errno != EAGAIN || !WaitForClient(POLLIN, deadline)) return false;
  }
  return true;
}

bool HttpConnection::WaitForRequest(absl::Duration timeout) {
  constexpr absl::string_view kEmptyLine = "\r\n";
  const absl::Time deadline = MonotonicNow() + timeout;
  while (true) {
    const absl::string_view come(buffer_.data() + begin_, end_ - begin_);
    if (!dropped_line_ && come.substr(0, kEmptyLine.size()) == kEmptyLine) {
      begin_ += kEmptyLine.size();
      dropped_line_ = true;
      continue;
    }
    const bool may_be_dropped = !dropped_line_ && absl::StartsWith(kEmptyLine, come);
    if (!come.empty() && !may_be_dropped) return true;
    const bool has_pending = tls_ != nullptr && tls_->has_pending();
    if (!has_pending && !WaitFor(POLLIN, deadline)) return false;
    const ssize_t received = Receive();
    if (received > 0) continue;
    // At the connection's end, which read() sees again.
    if (received == 0 || (errno != EAGAIN && errno != EINTR)) return true;
    if (MonotonicNow() >= deadline) return false;
  }
}

ssize_t HttpConnection::Receive() {
  // What it has goes to the front, so that there is room.
  std::copy(buffer_.begin() + begin_, buffer_.begin() + end_, buffer_.begin());
  end_ -= std::exchange(begin_, 0);
  char* const to = buffer_.data() + end_;
  const size_t room = buffer_.size() - end_;
  const ssize_t received = tls_ ? tls_->Receive(to, room) : recv(socket_, to, room, MSG_DONTWAIT);
  if (received > 0) end_ += static_cast<size_t>(received);
  return received;
}

void HttpConnection::BeginRequest(size_t max_bytes, absl::Time deadline) {
  BeginBody(max_bytes, deadline);
  in_headers_ = true;
  name_bytes_ = 0;
  keeps_ = false;
  dropped_line_ = false;
}

void HttpConnection::BeginBody(size_t max_bytes, absl::Time deadline) {
  allowed_bytes_ = max_bytes;
  request_deadline_ = deadline;
  answer_deadline_ = deadline + kAnswerTime;
  in_headers_ = false;
}

// httplib reads ranges before anyone here sees the request, by regular expressions that recurse for
// each character: 8 KiB of them take more than the stack of a thread may have.
void HttpConnection::SpoilRange(char* bytes, size_t num_bytes) {
  constexpr absl::string_view kRange = "range:";
  constexpr size_t kOther = ~size_t{0};
  for (char& byte : absl::MakeSpan(bytes, num_bytes)) {
    const bool goes_on =
        name_bytes_ < kRange.size() &&
        absl::ascii_tolower(static_cast<unsigned char>(byte)) == kRange[name_bytes_];
    name_bytes_ = byte == '\n' ? 0 : goes_on ? name_bytes_ + 1 : kOther;
    if (name_bytes_ == kRange.size()) byte = ' ';  // for the colon
  }
}

bool HttpConnection::client_has_gone() {
  pollfd looked_at = {.fd = socket_, .events = POLLRDHUP, .revents = 0};
  if (poll(&looked_at, 1, 0) > 0) return true;
  char byte = 0;
  const ssize_t n = tls_ ? tls_->Peek(&byte, 1) : recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

bool HttpConnection::is_readable() const {
  return has_bytes() || WaitForClient(POLLIN, request_deadline_);
}

bool HttpConnection::is_writable() const {
  return WaitForClient(POLLOUT, std::min(MonotonicNow() + kWriteTimeout, answer_deadline_));
}

ssize_t HttpConnection::read(char* to, size_t num_bytes) {
  num_bytes = std::min(num_bytes, allowed_bytes_);
  if (num_bytes == 0) return 0;  // as at an end: httplib answers a line that ends so
  while (begin_ == end_) {
    if (!is_readable()) return -1;
    const ssize_t received = Receive();
    if (received < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (received <= 0) return received;
  }
  num_bytes = std::min(num_bytes, end_ - begin_);
  std::memcpy(to, buffer_.data() + begin_, num_bytes);
  if (in_headers_) SpoilRange(to, num_bytes);
  begin_ += num_bytes;
  allowed_bytes_ -= num_bytes;
  return static_cast<ssize_t>(num_bytes);
}

ssize_t HttpConnection::write(const char* from, size_t num_bytes) {
  if (!is_writable()) return -1;
  const ssize_t sent = tls_ ? tls_->Send(from, num_bytes)
                            : send(socket_, from, num_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
  return sent < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : sent;
}

}  // namespace kvship
