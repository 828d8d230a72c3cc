#include "service/http_server.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/out_of_memory.h"
#include "base/start_thread.h"
#include "base/status_macros.h"
#include "base/system_random.h"
#include "service/host_port.h"

namespace kvship {
namespace {

constexpr absl::Duration kKeepAlive = absl::Seconds(30);
// How soon an idle connection notices that the server stops or needs its thread.
constexpr absl::Duration kIdleCheck = absl::Milliseconds(250);
constexpr absl::Duration kHandshakeTime = absl::Seconds(10);
constexpr absl::Duration kBodyTime = absl::Minutes(1);
// Listen backlog; httplib's own is 5.
constexpr int kConnectionsToAccept = 512;
// Wait until file descriptors are free again.
constexpr absl::Duration kAcceptPause = absl::Milliseconds(10);

thread_local HttpConnection* current_connection = nullptr;

constexpr char kOldVersion[] = "HTTP/1.0";
constexpr char kKeepAliveOption[] = "keep-alive";

// httplib recognizes an option of a connection only alone, but it may be one of a list, in any case
// (RFC 9110, section 7.6.1).
bool Says(const httplib::Request& request, absl::string_view wanted) {
  for (size_t i = 0; i < request.get_header_value_count("Connection"); ++i) {
    const std::string options = request.get_header_value("Connection", i);
    for (const absl::string_view option : absl::StrSplit(options, ',')) {
      if (absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(option), wanted)) return true;
    }
  }
  return false;
}

// Reads a target in absolute form, http://AUTHORITY/PATH, as one that names the path alone; the
// authority then stands for the header Host, whatever that says (RFC 9112, section 3.2.2). One that
// is missing or there twice is left to be refused, but in HTTP/1.0, where it may be missing. A
// target with a user's name, or an authority that must be decoded, is left as it is: a path that is
// nowhere found.
void ReadAbsoluteTarget(httplib::Request& request) {
  absl::string_view rest = request.target;
  const size_t scheme_bytes = absl::StartsWithIgnoreCase(rest, "http://")    ? 7
                              : absl::StartsWithIgnoreCase(rest, "https://") ? 8
                                                                             : 0;
  if (scheme_bytes == 0) return;
  rest.remove_prefix(scheme_bytes);
  const std::string authority(rest.substr(0, rest.find_first_of("/?")));
  if (authority.empty() || absl::StrContains(authority, '@') || absl::StrContains(authority, '%')) {
    return;
  }
  // Of the path, which is the target decoded, these bytes are the same.
  request.path.erase(0, scheme_bytes + authority.size());
  if (request.path.empty()) request.path.push_back('/');
  const size_t num_hosts = request.get_header_value_count("Host");
  if (num_hosts > 1 || (num_hosts == 0 && request.version != kOldVersion)) return;
  request.headers.erase("Host");
  request.set_header("Host", authority);
}

// As RFC 9112, section 9.3, has it.
bool ClosesAfter(const httplib::Request& request) {
  return Says(request, "close") ||
         (request.version == kOldVersion && !Says(request, kKeepAliveOption));
}

// Plus or minus a tenth: connections opened together must not close together.
absl::Duration NearlyAsLong(absl::Duration age) {
  return age * (0.9 + 0.2 * static_cast<double>(SystemRandomBits() % 1024) / 1023);
}

// IPv6's address of all interfaces is IPv4's too, where the machine has IPv6.
const char* AllInterfaces() {
  const int probe = socket(AF_INET6, SOCK_STREAM, 0);
  if (probe < 0) return "0.0.0.0";
  close(probe);
  return "::";
}

}  // namespace

HttpServer::HttpServer(const Limits& limits, TlsContexts tls)
    : limits_(limits), tls_(std::move(tls)), threads_(limits.max_connections) {
  set_tcp_nodelay(true);
  // By default two processes could share one port.
  set_socket_options([](int socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    const int no = 0;
    setsockopt(socket, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));  // fails for one of IPv4
  });
  set_post_routing_handler([](const httplib::Request& request, httplib::Response& response) {
    response.headers.erase("Keep-Alive");  // describes httplib's own loop
    const bool closes = connection().closes();
    if (!closes && (request.version != kOldVersion || ClosesAfter(request))) return;
    response.headers.erase("Connection");
    response.set_header("Connection", closes ? "close" : kKeepAliveOption);
  });
}

// A connection's socket, registered for Stop while it is open.
class HttpServer::OpenSocket {
 public:
  OpenSocket(HttpServer& server, int socket) : server_(server), socket_(socket) {
    std::lock_guard lock(server_.mutex_);
    server_.open_sockets_.insert(socket_);
  }
  // Under the lock: a closed descriptor's number may be reused.
  ~OpenSocket() {
    std::lock_guard lock(server_.mutex_);
    server_.open_sockets_.erase(socket_);
    close(socket_);
    server_.all_closed_.notify_all();
  }
  OpenSocket(const OpenSocket&) = delete;
  OpenSocket& operator=(const OpenSocket&) = delete;

 private:
  HttpServer& server_;
  const int socket_;
};

HttpServer::~HttpServer() { Stop(absl::ZeroDuration()); }

absl::Status HttpServer::Listen(const std::string& flag, const std::string& address) {
  ASSIGN_OR_RETURN(const HostPort wanted, ParseListenAddress(flag, address));
  const std::string host = wanted.host.empty() ? AllInterfaces() : wanted.host;
  port_ = wanted.port;
  if (wanted.port == 0) {
    port_ = bind_to_any_port(host);
  } else if (!bind_to_port(host, wanted.port)) {
    port_ = -1;
  }
  if (port_ <= 0 || ::listen(svr_sock_, kConnectionsToAccept) != 0) {
    return CannotListen(flag, address);
  }
  const std::string name = absl::StrCat("the ", flag, " port");
  CheckThreadsAreLeft(name, 2);
  threads_.Run([] {});  // makes the thread that is kept
  acceptor_ = StartThread(name, [this] { Accept(); });
  return absl::OkStatus();
}

void HttpServer::Stop(absl::Duration grace) {
  if (stopping_.exchange(true) || svr_sock_ == INVALID_SOCKET) return;
  shutdown(svr_sock_, SHUT_RDWR);  // wakes the acceptor
  {
    std::unique_lock lock(mutex_);
    all_closed_.wait_until(lock, ToSteadyTime(MonotonicNow() + grace),
                           [this] { return open_sockets_.empty(); });
    // Wakes readers and writers.
    for (const int socket : open_sockets_) shutdown(socket, SHUT_RDWR);
  }
  threads_.Stop();
  if (acceptor_.joinable()) acceptor_.join();
  close(svr_sock_.exchange(INVALID_SOCKET));
}

HttpConnection& HttpServer::connection() { return *current_connection; }

void HttpServer::Accept() {
  while (!stopping_) {
    const int socket = accept4(svr_sock_, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket >= 0) {
      const auto serve = [this, socket, tls = tls_ ? tls_() : nullptr] {
        // Exceptions that httplib does not catch.
        UnlessOutOfMemory([&] {
          Serve(socket, tls);
          return absl::OkStatus();
        }).IgnoreError();
      };
      if (!threads_.Run(serve)) close(socket);
    } else if (errno != EINTR && errno != ECONNABORTED) {
      absl::SleepFor(kAcceptPause);
    }
  }
}

bool HttpServer::WaitForRequest(HttpConnection& connection) const {
  const absl::Time end = MonotonicNow() + kKeepAlive;
  while (!connection.WaitForRequest(kIdleCheck)) {
    if (stopping_ || draining_ || threads_.crowded() || MonotonicNow() > end) return false;
  }
  return !stopping_;
}

void HttpServer::Serve(int socket, const std::shared_ptr<SSL_CTX>& tls) {
  const OpenSocket open(*this, socket);
  absl::Time begin = MonotonicNow();  // the present request's
  HttpConnection connection(socket, tls);
  current_connection = &connection;
  // Stop may not have seen a connection that opens now.
  if (stopping_) return;
  connection.YieldWhen(
      [&] { return MonotonicNow() > begin + limits_.crowded_time && threads_.crowded(); });
  if (!connection.Handshake(begin + kHandshakeTime)) return;
  const absl::Time old = MonotonicNow() + NearlyAsLong(limits_.max_connection_age);
  while (!connection.closes() && WaitForRequest(connection)) {
    begin = MonotonicNow();
    if (draining_ || begin >= old) connection.CloseAfterAnswer();
    connection.BeginRequest(limits_.max_header_bytes, begin + limits_.header_time);
    bool headers_read = false, client_closes = false;
    const auto after_headers = [&](httplib::Request& request) {
      headers_read = true;
      ReadAbsoluteTarget(request);
      // httplib matches names of codings, and ignores that one may be refused ("br;q=0").
      request.headers.erase("Accept-Encoding");
      client_closes = ClosesAfter(request);  // httplib may have set it
      if (client_closes) {
        request.headers.erase("Connection");
        request.set_header("Connection", "close");  // so that the response says it too
      }
      if (limits_.max_body_bytes == 0) return;
      // Chunk framing takes at most an eighth of the body, and a little.
      connection.BeginBody(limits_.max_body_bytes / 8 * 9 + limits_.max_header_bytes,
                           MonotonicNow() + kBodyTime);
    };
    const bool ok =
        process_request(connection, /*close_connection=*/false, client_closes, after_headers);
    if (!ok || client_closes || !headers_read) break;
  }
}

}  // namespace kvship
