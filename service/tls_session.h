// TlsSession is a server's side of TLS on a socket. Nothing here waits: what cannot be done at once
// fails with errno EAGAIN, as on a socket that does not block. Used by one thread.
#pragma once

#include <openssl/ssl.h>
#include <sys/types.h>

#include <memory>

namespace kvship {

class TlsSession {
 public:
  // Borrows the socket, which does not block from then on.
  TlsSession(const std::shared_ptr<SSL_CTX>& context, int socket);
  // Tells the client that nothing follows.
  ~TlsSession();

  // Whether bytes can be read that the socket has given already. (Not SSL_has_pending, which is
  // also true of a part of a record, and then nothing can be read.)
  bool has_pending() const { return SSL_pending(session_.get()) > 0; }

  // 1 when done; 0 or -1 as Receive.
  int Handshake();
  // As recv(): the number of bytes, 0 at their end, or -1 with errno.
  ssize_t Receive(char* to, size_t num_bytes);
  // As recv() with MSG_PEEK.
  ssize_t Peek(char* to, size_t num_bytes);
  // As send(), and never 0: bytes that were not taken must come again in the next call.
  ssize_t Send(const char* from, size_t num_bytes);

 private:
  struct Free {
    void operator()(SSL* session) const { SSL_free(session); }
  };

  // Of a call that returned `result`, and moved `num_bytes` if that was 1.
  ssize_t Outcome(int result, size_t num_bytes) const;

  const std::unique_ptr<SSL, Free> session_;
};

}  // namespace kvship
