#include "decode_service/http/http_server.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <exception>
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
#include "service/listen_address.h"

namespace kvship {
namespace {

constexpr absl::Duration kKeepAlive = absl::Seconds(30);
// How soon an idle connection notices that the server stops or needs its thread.
constexpr absl::Duration kIdleCheck = absl::Milliseconds(250);
constexpr absl::Duration kHandshakeTime = absl::Seconds(10);
// Time for a request's headers, from their first byte on, and then for its body.
constexpr absl::Duration kHeaderTime = absl::Seconds(10);
constexpr absl::Duration kBodyTime = absl::Minutes(1);
// Time for a handshake, or for a request that holds no slot, while others wait for a connection.
constexpr absl::Duration kCrowdedTime = absl::Seconds(1);
constexpr size_t kMostHeaderBytes = 64 << 10;
// Listen backlog; httplib's own is 5.
constexpr int kConnectionsToAccept = 512;
// Wait until file descriptors are free again.
constexpr absl::Duration kAcceptPause = absl::Milliseconds(10);

constexpr int kUrlTooLong = 414;
constexpr int kHeadersTooLong = 431;

thread_local HttpConnection* current_connection = nullptr;

// httplib does not answer a request line that does not end.
void AnswerEndlessLine(HttpConnection& connection, const httplib::Logger& log) {
  const std::string body = UnreadableHttpRequest(kUrlTooLong).Json();
  const std::string answer =
      absl::StrCat("HTTP/1.1 ", kUrlTooLong, " URI Too Long\r\nConnection: close\r\nContent-Type: ",
                   "application/json\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
  connection.CloseAfterAnswer();
  connection.write(answer.data(), answer.size());
  httplib::Response logged;
  logged.status = kUrlTooLong;
  log({}, logged);
}

// httplib recognizes only "close" alone, but it may be one option of a list, in any case (RFC 9110,
// section 7.6.1).
bool SaysClose(const httplib::Request& request) {
  for (size_t i = 0; i < request.get_header_value_count("Connection"); ++i) {
    const std::string options = request.get_header_value("Connection", i);
    for (const absl::string_view option : absl::StrSplit(options, ',')) {
      if (absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(option), "close")) return true;
    }
  }
  return false;
}

// Plus or minus a tenth: connections opened together must not close together.
absl::Duration NearlyAsLong(absl::Duration age) {
  return age * (0.9 + 0.2 * static_cast<double>(SystemRandomBits() % 1024) / 1023);
}

absl::Status StatusOf(const std::exception_ptr& thrown) {
  try {
    return UnlessOutOfMemory([&]() -> absl::Status { std::rethrow_exception(thrown); });
  } catch (...) {
    return absl::InternalError("the request failed in the server, which goes on");
  }
}

}  // namespace

OpenAiError UnreadableHttpRequest(int http_status) {
  if (http_status == kUrlTooLong) {
    return InvalidOpenAiRequest(
        absl::StrCat("the request's line, with the URL, is too long; wanted at most ",
                     CPPHTTPLIB_REQUEST_URI_MAX_LENGTH, " bytes"),
        http_status);
  }
  if (HttpServer::connection().has_read_all_allowed()) {
    return InvalidOpenAiRequest(absl::StrCat("the request's headers are too long; wanted at most ",
                                             kMostHeaderBytes, " bytes together"),
                                kHeadersTooLong);
  }
  return InvalidOpenAiRequest(
      absl::StrCat("the HTTP request cannot be read; wanted a line METHOD URL HTTP/1.1, and "
                   "headers of at most ",
                   CPPHTTPLIB_HEADER_MAX_LENGTH, " bytes each"),
      http_status);
}

void Respond(const OpenAiError& error, httplib::Response& response) {
  response.status = error.http_status;
  response.set_content(error.Json(), "application/json");
  if (error.retry_after) {
    const int64_t seconds = absl::ToInt64Seconds(absl::Ceil(*error.retry_after, absl::Seconds(1)));
    response.set_header("Retry-After", absl::StrCat(std::max<int64_t>(1, seconds)));
  }
  if (error.http_status == 401) response.set_header("WWW-Authenticate", "Bearer");
}

HttpServer::HttpServer(size_t max_connections, size_t max_body_bytes, TlsContexts tls)
    : max_body_bytes_(max_body_bytes), tls_(std::move(tls)), threads_(max_connections) {
  set_tcp_nodelay(true);
  // By default two processes could share one port.
  set_socket_options([](int socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  // For a handler that threw, such as for lack of memory for a body.
  set_exception_handler(
      [](const httplib::Request&, httplib::Response& response, const std::exception_ptr& thrown) {
        connection().CloseAfterAnswer();
        Respond(OpenAiErrorOf(StatusOf(thrown)), response);
      });
  set_post_routing_handler([](const httplib::Request&, httplib::Response& response) {
    response.headers.erase("Keep-Alive");  // describes httplib's own loop
    if (!connection().closes()) return;
    response.headers.erase("Connection");
    response.set_header("Connection", "close");
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
  ASSIGN_OR_RETURN(const ListenAddress wanted, ParseListenAddress(flag, address));
  port_ = wanted.port;
  if (wanted.port == 0) {
    port_ = bind_to_any_port(wanted.host);
  } else if (!bind_to_port(wanted.host, wanted.port)) {
    port_ = -1;
  }
  if (port_ <= 0 || ::listen(svr_sock_, kConnectionsToAccept) != 0) {
    return CannotListen(flag, address);
  }
  acceptor_ = StartThread("the HTTP port", [this] { Accept(); });
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

void HttpServer::SetLogger(httplib::Logger log) {
  log_ = std::move(log);
  set_logger(log_);
}

HttpConnection& HttpServer::connection() { return *current_connection; }

void HttpServer::Accept() {
  while (!stopping_) {
    const int socket = accept4(svr_sock_, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket >= 0) {
      const std::shared_ptr<SSL_CTX> tls = tls_ ? tls_() : nullptr;
      if (!threads_.Run([this, socket, tls] { Serve(socket, tls); })) close(socket);
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
  connection.YieldWhen([&] { return MonotonicNow() > begin + kCrowdedTime && threads_.crowded(); });
  if (!connection.Handshake(begin + kHandshakeTime)) return;
  const absl::Time old = MonotonicNow() + NearlyAsLong(max_connection_age_);
  while (!connection.closes() && WaitForRequest(connection)) {
    if (draining_ || MonotonicNow() > old) connection.CloseAfterAnswer();
    begin = MonotonicNow();
    connection.BeginRequest(kMostHeaderBytes, begin + kHeaderTime);
    bool headers_read = false, client_closes = false, ok = false;
    const auto after_headers = [&](httplib::Request& request) {
      headers_read = true;
      // httplib matches names of codings, and ignores that one may be refused ("br;q=0").
      request.headers.erase("Accept-Encoding");
      if (SaysClose(request)) {
        client_closes = true;
        request.headers.erase("Connection");
        request.set_header("Connection", "close");  // so that the response says it too
      }
      // Chunk framing takes at most an eighth of the body, and a little.
      connection.BeginBody(max_body_bytes_ / 8 * 9 + kMostHeaderBytes, MonotonicNow() + kBodyTime);
    };
    // Exceptions that httplib does not catch.
    const absl::Status memory = UnlessOutOfMemory([&] {
      ok = process_request(connection, /*close_connection=*/false, client_closes, after_headers);
      return absl::OkStatus();
    });
    if (!memory.ok()) break;
    if (!ok && !headers_read && connection.has_read_all_allowed()) {
      AnswerEndlessLine(connection, log_);
    }
    if (!ok || client_closes || !headers_read) break;
  }
}

}  // namespace kvship
