// HttpServer is an HTTP/1.1 server with a thread per connection. cpp-httplib parses, routes and
// writes; this class accepts, waits and reads, because the library's connections use CPU while they
// wait, read without limits, and reuse a connection after a response that left part of the request
// unread. Set handlers before Listen; they run on the connection's thread.
#pragma once

#include <httplib.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "decode_service/http/openai_error.h"
#include "rpc/tls.h"
#include "service/connection_threads.h"
#include "service/http_connection.h"

namespace kvship {

// For an error handler: the problem of a request that httplib itself answered with `http_status`.
OpenAiError UnreadableHttpRequest(int http_status);

// Fills `response` with the error.
void Respond(const OpenAiError& error, httplib::Response& response);

class HttpServer : public httplib::Server {
 public:
  // Connections beyond `max_connections` wait in the system's bounded accept queue; meanwhile the
  // server closes connections that are idle, or take over a second for a request that has not kept
  // its connection. `tls` may be null: plain text.
  HttpServer(size_t max_connections, size_t max_body_bytes, TlsContexts tls = nullptr);
  // As Stop, at once.
  ~HttpServer() override;

  // A connection closes after its first response past this age, plus or minus a tenth, so that
  // clients find new servers and see new certificates. Call before Listen.
  void SetMaxConnectionAge(absl::Duration age) { max_connection_age_ = age; }

  // `log` is called for every response; set_logger's, only for those that httplib makes.
  void SetLogger(httplib::Logger log);

  // Listens on "host:port" and serves; `flag` is for messages. Errors: InvalidArgument (no
  // address), Unavailable (port in use).
  absl::Status Listen(const std::string& flag, const std::string& address);
  int port() const { return port_; }

  // Serves an accepted connection to its end, on the calling thread. Owns the socket. `tls` may be
  // null: plain text.
  void Serve(int socket, const std::shared_ptr<SSL_CTX>& tls);

  // Every connection closes after its current response; new ones are still accepted.
  void StartDraining() { draining_ = true; }
  // Stops accepting and waits up to `grace` for responses in progress. After that, no connection
  // waits for its client any more.
  void Stop(absl::Duration grace);

  // Returns the connection that the calling handler serves.
  static HttpConnection& connection();

 private:
  class OpenSocket;

  void Accept();
  bool WaitForRequest(HttpConnection& connection) const;

  const size_t max_body_bytes_;
  const TlsContexts tls_;  // may be null
  httplib::Logger log_ = [](const httplib::Request&, const httplib::Response&) {};
  absl::Duration max_connection_age_ = absl::Minutes(30);  // as gRPC's (service/rpc_server.cc)
  int port_ = 0;
  std::atomic<bool> draining_{false};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable all_closed_;
  std::set<int> open_sockets_;  // of connections being served
  ConnectionThreads threads_;
  std::thread acceptor_;
};

}  // namespace kvship
