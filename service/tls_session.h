// TlsSession is the server's side of TLS on a socket. No call blocks: one that cannot proceed fails
// with errno EAGAIN, as on a non-blocking socket. Used by one thread.
#pragma once

#include <openssl/ssl.h>
#include <sys/types.h>

#include <memory>

namespace kvship {

class TlsSession {
 public:
  // Borrows the socket and makes it non-blocking.
  TlsSession(const std::shared_ptr<SSL_CTX>& context, int socket);
  // Tells the client that no more data follows.
  ~TlsSession();

  // Returns whether decrypted bytes can be read. (Not SSL_has_pending, which is also true for a
  // partial record, of which nothing can be read.)
  bool has_pending() const { return SSL_pending(session_.get()) > 0; }

  // 1 when done; 0 or -1 as Receive.
  int Handshake();
  // As recv(): the number of bytes, 0 at the end of the data, or -1 with errno.
  ssize_t Receive(char* to, size_t num_bytes);
  // As recv() with MSG_PEEK.
  ssize_t Peek(char* to, size_t num_bytes);
  // As send(), but never 0: bytes that were not accepted must be passed again in the next call.
  ssize_t Send(const char* from, size_t num_bytes);

 private:
  struct Free {
    void operator()(SSL* session) const { SSL_free(session); }
  };

  // The result of a call that returned `result`, and moved `num_bytes` if that was 1.
  ssize_t Outcome(int result, size_t num_bytes) const;

  const std::unique_ptr<SSL, Free> session_;
};

}  // namespace kvship
