// HttpServer is an HTTP/1.1 server with a thread per connection. cpp-httplib parses, routes and
// writes; accepting, waiting and reading are done here, because the library's connections take up
// processor time while they wait, read without bounds, and go on after an answer that left a part
// of the request unread. Handlers, set before Listen, run on the connection's thread.
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
#include "service/connection_threads.h"
#include "service/http_connection.h"
#include "service/watched_tls_context.h"

namespace kvship {

// What is wrong with a request for which httplib has answered `http_status` by itself. For a
// handler of errors.
OpenAiError UnreadableHttpRequest(int http_status);

// Answers with it.
void Respond(const OpenAiError& error, httplib::Response& response);

class HttpServer : public httplib::Server {
 public:
  // More than `max_connections` wait to be accepted, in the system's bounded queue. `tls` may be
  // null: plain text.
  HttpServer(size_t max_connections, size_t max_body_bytes,
             std::unique_ptr<WatchedTlsContext> tls = nullptr);
  // As Stop, at once.
  ~HttpServer() override;

  // A connection ends with its first answer after this age, give or take a tenth, so that clients
  // find new servers and see new certificates. Before Listen.
  void SetMaxConnectionAge(absl::Duration age) { max_connection_age_ = age; }

  // Is told of every answer, set_logger's only of those that httplib gives.
  void SetLogger(httplib::Logger log);

  // Listens on "host:port" (`flag` is for messages) and serves. Errors: InvalidArgument (no
  // address), Unavailable (port in use).
  absl::Status Listen(const std::string& flag, const std::string& address);
  int port() const { return port_; }

  // Serves a connection that was accepted, to its end, on the calling thread. Owns the socket.
  // `tls` may be null: plain text.
  void Serve(int socket, const std::shared_ptr<SSL_CTX>& tls);

  // Every connection ends after its present answer; new ones are still accepted.
  void StartDraining() { draining_ = true; }
  // Accepts no more and waits for the answers that are being given: for `grace`, after which no
  // connection waits for its client any more.
  void Stop(absl::Duration grace);

  // The connection that the calling handler serves.
  static HttpConnection& connection();

 private:
  class OpenSocket;

  void Accept();
  bool WaitForRequest(HttpConnection& connection) const;

  const size_t max_body_bytes_;
  const std::unique_ptr<WatchedTlsContext> tls_;  // may be null; used by the acceptor
  httplib::Logger log_ = [](const httplib::Request&, const httplib::Response&) {};
  absl::Duration max_connection_age_ = absl::Minutes(30);  // as gRPC's (service/rpc_server.h)
  int port_ = 0;
  std::atomic<bool> draining_{false};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable all_closed_;
  std::set<int> open_sockets_;  // of connections that are being served
  ConnectionThreads threads_;
  std::thread acceptor_;
};

}  // namespace kvship
