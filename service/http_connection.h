// HttpConnection is one client's TCP connection as cpp-httplib reads and writes it, with what the
// library's own stream lacks: bounds on the bytes and the time that a request may take to arrive,
// and a look at whether the client is still there. Deadlines are monotonic. Used by the
// connection's thread alone.
#pragma once

#include <httplib.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "service/tls_session.h"

namespace kvship {

class HttpConnection final : public httplib::Stream {
 public:
  // The socket is closed by whoever gives it, after this. `tls` may be null: plain text.
  HttpConnection(int socket, const std::shared_ptr<SSL_CTX>& tls);
  // Says goodbye; where the last request was not read to its end, the client gets a moment to read
  // the answer.
  ~HttpConnection() override;

  // Agrees with the client on TLS, where there is any; to be done first. False if that fails, or is
  // not done by `deadline`.
  bool Handshake(absl::Time deadline);

  // Waits for the first byte of the next request; false if none came by then.
  bool WaitForRequest(absl::Duration timeout);
  // From here on the next request may be read, until `deadline`: so many bytes, unless more are
  // allowed.
  void BeginRequest(size_t max_bytes, absl::Time deadline);
  void AllowBytes(size_t max_bytes) { allowed_bytes_ = max_bytes; }
  bool has_read_all_allowed() const { return allowed_bytes_ == 0; }
  // From `deadline` on nothing waits for a client that does not read the answer.
  void SetAnswerDeadline(absl::Time deadline) { answer_deadline_ = deadline; }

  // Whether the client has closed the connection, or at least its side of it.
  bool client_has_gone();

  // The connection ends after the answer, because bytes of the request stay unread or for another
  // reason.
  void CloseAfterAnswer() { closes_ = true; }
  bool closes() const { return closes_; }

  bool is_readable() const override;
  bool is_writable() const override;
  ssize_t read(char* to, size_t num_bytes) override;
  ssize_t write(const char* from, size_t num_bytes) override;
  // Not known: nobody here asks.
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_; }

 private:
  bool WaitFor(short events, absl::Time deadline) const;
  // Whether bytes have arrived that were not read yet, as far as is known without a look.
  bool has_bytes() const { return begin_ < end_ || (tls_ != nullptr && tls_->has_pending()); }

  const int socket_;
  std::unique_ptr<TlsSession> tls_;  // may be null
  std::vector<char> buffer_;         // bytes [begin_, end_) were received and not read yet
  size_t begin_ = 0;
  size_t end_ = 0;
  size_t allowed_bytes_ = 0;
  absl::Time request_deadline_ = absl::InfinitePast();
  absl::Time answer_deadline_ = absl::InfiniteFuture();
  bool closes_ = false;
};

}  // namespace kvship
