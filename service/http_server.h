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
#include "rpc/tls.h"
#include "service/connection_threads.h"
#include "service/http_connection.h"

namespace kvship {

class HttpServer : public httplib::Server {
 public:
  struct Limits {
    // Connections beyond these, or beyond the system's threads, wait in its bounded accept queue;
    // meanwhile the server closes connections that are idle, or take longer than `crowded_time`
    // for a handshake, or for a request that has not kept its connection.
    size_t max_connections = 64;
    absl::Duration crowded_time = absl::Seconds(1);
    size_t max_header_bytes = 64 << 10;
    // Time for a request's headers, from their first byte on.
    absl::Duration header_time = absl::Seconds(10);
    // A body has a minute. 0: bodies count as headers.
    size_t max_body_bytes = 0;
    // A connection closes after its first response past this age, plus or minus a tenth, so that
    // clients find new servers and see new certificates. The default is gRPC's, of
    // service/rpc_server.cc.
    absl::Duration max_connection_age = absl::Minutes(30);
  };

  // `tls` may be null: plain text.
  explicit HttpServer(const Limits& limits, TlsContexts tls = nullptr);
  // As Stop, at once.
  ~HttpServer() override;

  // Listens on "host:port" and serves; `flag` is for messages. Ends the process if the system has
  // no two threads for it. Errors: InvalidArgument (no address), Unavailable (port in use).
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

  const Limits limits_;
  const TlsContexts tls_;  // may be null
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
