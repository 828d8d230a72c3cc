// HttpConnection is one client's TCP connection as a cpp-httplib stream, with what the library's
// own stream lacks: limits on the bytes and the time of an arriving request, and a check whether
// the client is still connected. It hides Range headers: range requests are not supported.
// Deadlines are monotonic. Used only by the connection's thread.
#pragma once

#include <httplib.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "service/tls_session.h"

namespace kvship {

class HttpConnection final : public httplib::Stream {
 public:
  // The caller closes the socket, after this object is destroyed. `tls` may be null: plain text.
  HttpConnection(int socket, const std::shared_ptr<SSL_CTX>& tls);
  // Shuts the connection down. After CloseAfterAnswer, gives the client a moment to read the
  // response.
  ~HttpConnection() override;

  // Does the TLS handshake, if there is TLS; call first. False if it fails or misses `deadline`.
  bool Handshake(absl::Time deadline);

  // Waits for the first byte of the next request; false on timeout. An empty line before it, which
  // some clients send after a body, is dropped (RFC 9112, section 2.2).
  bool WaitForRequest(absl::Duration timeout);
  // Starts the next request: its headers are read until `deadline`, and as if the client had sent
  // its last byte after `max_bytes`.
  void BeginRequest(size_t max_bytes, absl::Time deadline);
  // The headers have been read; the body has at most `max_bytes`, and arrives until `deadline`.
  void BeginBody(size_t max_bytes, absl::Time deadline);
  bool has_read_all_allowed() const { return allowed_bytes_ == 0; }
  // After `deadline`, nothing waits for a client that does not read the response. Without it, a
  // response has a few seconds after the request's deadline.
  void SetAnswerDeadline(absl::Time deadline) { answer_deadline_ = deadline; }

  // Once `yields` returns true, which is polled, nothing waits for the client any more: in the
  // handshake, and in every request until KeepConnection is called for it.
  void YieldWhen(std::function<bool()> yields) { yields_ = std::move(yields); }
  void KeepConnection() { keeps_ = true; }

  // Returns whether the client has closed the connection, or at least its side of it.
  bool client_has_gone();

  // Closes the connection after the response: bytes of the request stay unread, or for another
  // reason.
  void CloseAfterAnswer() { closes_ = true; }
  bool closes() const { return closes_; }

  bool is_readable() const override;
  bool is_writable() const override;
  ssize_t read(char* to, size_t num_bytes) override;
  ssize_t write(const char* from, size_t num_bytes) override;
  // Unknown: never asked for.
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_; }

 private:
  bool WaitFor(short events, absl::Time deadline) const;
  // Whether YieldWhen's condition holds and the request has not kept its connection.
  bool Yields() const { return !keeps_ && yields_ && yields_(); }
  // As WaitFor; false at once when the connection yields.
  bool WaitForClient(short events, absl::Time deadline) const;
  // Turns each header named Range, in the next bytes of the headers, into a line that is no header.
  void SpoilRange(char* bytes, size_t num_bytes);
  // Whether unread bytes have arrived, as far as is known without a system call.
  bool has_bytes() const { return begin_ < end_ || (tls_ != nullptr && tls_->has_pending()); }

  // Receives what has come into the buffer, behind what that has. As TlsSession::Receive.
  ssize_t Receive();

  const int socket_;
  std::unique_ptr<TlsSession> tls_;  // may be null
  std::vector<char> buffer_;         // bytes [begin_, end_) were received and not read yet
  size_t begin_ = 0;
  size_t end_ = 0;
  bool dropped_line_ = false;  // an empty one, before the next request
  size_t allowed_bytes_ = 0;
  bool in_headers_ = true;
  size_t name_bytes_ = 0;  // of the present line, as far as it begins as a header Range does
  absl::Time request_deadline_ = absl::InfinitePast();
  absl::Time answer_deadline_ = absl::InfiniteFuture();
  std::function<bool()> yields_;  // may be null
  bool keeps_ = false;
  bool closes_ = false;
};

}  // namespace kvship
