#include "service/tls_session.h"

#include <fcntl.h>
#include <openssl/err.h>

#include <cerrno>

namespace kvship {

TlsSession::TlsSession(const std::shared_ptr<SSL_CTX>& context, int socket)
    : session_(SSL_new(context.get())) {
  fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK);
  SSL_set_fd(session_.get(), socket);
  SSL_set_accept_state(session_.get());
  SSL_set_mode(session_.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

TlsSession::~TlsSession() {
  SSL_shutdown(session_.get());
  ERR_clear_error();
}

ssize_t TlsSession::Outcome(int result, size_t num_bytes) const {
  if (result == 1) return static_cast<ssize_t>(num_bytes);
  const int error = SSL_get_error(session_.get(), result);
  ERR_clear_error();
  if (error == SSL_ERROR_ZERO_RETURN) return 0;
  errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : ECONNRESET;
  return -1;
}

int TlsSession::Handshake() {
  return static_cast<int>(Outcome(SSL_do_handshake(session_.get()), 1));
}

ssize_t TlsSession::Receive(char* to, size_t num_bytes) {
  size_t received = 0;
  const int result = SSL_read_ex(session_.get(), to, num_bytes, &received);
  return Outcome(result, received);
}

ssize_t TlsSession::Peek(char* to, size_t num_bytes) {
  size_t received = 0;
  const int result = SSL_peek_ex(session_.get(), to, num_bytes, &received);
  return Outcome(result, received);
}

ssize_t TlsSession::Send(const char* from, size_t num_bytes) {
  size_t sent = 0;
  const int result = SSL_write_ex(session_.get(), from, num_bytes, &sent);
  const ssize_t outcome = Outcome(result, sent);
  if (outcome != 0) return outcome;
  errno = EPIPE;  // what failed is the write, but OpenSSL tells of the goodbye that came before
  return -1;
}

}  // namespace kvship
