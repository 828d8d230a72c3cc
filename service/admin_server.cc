#include "service/admin_server.h"

#include <httplib.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iterator>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/start_thread.h"
#include "base/status_macros.h"
#include "service/connection_threads.h"
#include "service/http_connection.h"
#include "service/listen_address.h"
#include "service/node_metrics.h"
#include "service/status_page.h"

namespace kvship {
namespace {

constexpr char kPlainText[] = "text/plain; charset=utf-8";
constexpr char kMetricsText[] = "text/plain; version=0.0.4; charset=utf-8";
constexpr char kJson[] = "application/json";
constexpr char kHtml[] = "text/html; charset=utf-8";

// The page has all it needs in itself, and asks nobody but its own port.
constexpr char kPagePolicy[] =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'";

// Connections at a time. A browser that keeps one open, or opens one to have it, must not hold up a
// probe, nor must who sends half a request: each has a thread, serves one request, and has so long
// for all of it, and then for the answer.
constexpr size_t kMostConnections = 64;
constexpr absl::Duration kRequestTime = absl::Seconds(2);
constexpr absl::Duration kAnswerTime = absl::Seconds(5);
// Of a request; all here have a line and some headers.
constexpr size_t kMostRequestBytes = 16 << 10;

// Between attempts to open the port anew.
constexpr absl::Duration kReopenPause = absl::Milliseconds(100);

// Serves connections on threads that are made as they are needed, or where the system has none left
// on the one that accepts.
class Connections final : public httplib::TaskQueue {
 public:
  void enqueue(std::function<void()> serve) override {
    if (!threads_.Run(serve)) serve();
  }
  void shutdown() override { threads_.Stop(); }

 private:
  ConnectionThreads threads_{kMostConnections};
};

// httplib's own connections bound neither a request's bytes nor its time.
class HttpPort final : public httplib::Server {
  bool process_and_close_socket(socket_t socket) override {
    {
      HttpConnection connection(socket, /*tls=*/nullptr);
      const absl::Time request_end = MonotonicNow() + kRequestTime;
      connection.BeginRequest(kMostRequestBytes, request_end);
      connection.SetAnswerDeadline(request_end + kAnswerTime);
      bool client_closes = false;
      UnlessOutOfMemory([&] {
        process_request(connection, /*close_connection=*/true, client_closes, nullptr);
        return absl::OkStatus();
      }).IgnoreError();  // who asked comes again
    }
    close(socket);
    return true;
  }
};

}  // namespace

struct AdminServer::Server {
  // Adds what all programs say of themselves, and what this one does.
  nlohmann::ordered_json Status(const Readiness& readiness);
  void AddHandlers(prometheus::Registry& registry, const Readiness& readiness, ApiTokens* tokens);
  bool Bind();
  void Listen();

  std::string program;
  std::string host;
  absl::Time started = MonotonicNow();
  HttpPort http;
  int listening = -1;  // the socket
  int port = 0;
  std::atomic<bool> stops = false;
  std::atomic<bool> has_stopped = false;
  std::thread thread;
  std::mutex mutex;
  StatusSource source;
  std::vector<const prometheus::Collectable*> metrics;
};

nlohmann::ordered_json AdminServer::Server::Status(const Readiness& readiness) {
  const absl::Status ready = readiness.Check();
  nlohmann::ordered_json status = {
      {"program", program},
      {"ready", ready.ok()},
      {"reason", std::string(ready.message())},
      {"time", absl::FormatTime(absl::RFC3339_sec, absl::Now(), absl::UTCTimeZone())},
      {"uptime_seconds", absl::ToDoubleSeconds(MonotonicNow() - started)}};
  std::lock_guard lock(mutex);
  if (source) status.update(source());
  return status;
}

void AdminServer::Server::AddHandlers(prometheus::Registry& registry, const Readiness& readiness,
                                      ApiTokens* tokens) {
  using httplib::Request;
  using httplib::Response;
  http.Get("/metrics", [this, &registry, node = NodeMetrics(program, readiness, tokens)](
                           const Request&, Response& response) {
    std::vector<prometheus::MetricFamily> families = registry.Collect();
    std::ranges::move(node.Collect(), std::back_inserter(families));
    {
      std::lock_guard lock(mutex);
      for (const prometheus::Collectable* more : metrics) {
        std::ranges::move(more->Collect(), std::back_inserter(families));
      }
    }
    response.set_content(prometheus::TextSerializer().Serialize(families), kMetricsText);
  });
  const auto answer = [](const absl::Status& status, Response& response) {
    response.status = status.ok() ? 200 : 503;
    response.set_content(status.ok() ? "ok\n" : absl::StrCat(status.message(), "\n"), kPlainText);
  };
  http.Get("/healthz", [&readiness, answer](const Request&, Response& response) {
    const absl::Status status = readiness.Check();
    answer(absl::IsInternal(status) ? status : absl::OkStatus(), response);
  });
  http.Get("/readyz", [&readiness, answer](const Request&, Response& response) {
    answer(readiness.Check(), response);
  });
  http.Get("/status.json", [this, &readiness](const Request&, Response& response) {
    response.set_header("Cache-Control", "no-store");
    response.set_content(
        Status(readiness).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), kJson);
  });
  http.Get("/", [](const Request&, Response& response) {
    response.set_header("Content-Security-Policy", kPagePolicy);
    response.set_content(kStatusPage, kHtml);
  });
}

bool AdminServer::Server::Bind() {
  if (port == 0) {
    port = std::max(0, http.bind_to_any_port(host));
  } else if (!http.bind_to_port(host, port)) {
    return false;
  }
  // By default 5 connections may wait to be taken; one more would try again after a second.
  return port > 0 && listen(listening, kMostConnections) == 0;
}

void AdminServer::Server::Listen() {
  http.listen_after_bind();
  while (!stops) {
    // httplib gives up where the system has no descriptor or memory for one connection.
    LogError("the admin port could take no connection; it is opened anew");
    do {
      absl::SleepFor(kReopenPause);
    } while (!stops && !Bind());
    if (!stops) http.listen_after_bind();
  }
  has_stopped = true;
}

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(const std::string& program,
                                                                const std::string& address,
                                                                prometheus::Registry& registry,
                                                                const Readiness& readiness,
                                                                ApiTokens* tokens) {
  ASSIGN_OR_RETURN(const ListenAddress wanted, ParseListenAddress("admin", address));
  auto server = std::make_unique<Server>();
  server->program = program;
  server->http.new_task_queue = [] { return new Connections; };
  // By default two processes could share one port.
  server->http.set_socket_options([&listening = server->listening](int socket) {
    listening = socket;
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  server->AddHandlers(registry, readiness, tokens);
  server->host = wanted.host;
  server->port = wanted.port;
  if (!server->Bind()) return CannotListen("admin", address);
  server->thread = StartThread("the admin port", [server = server.get()] { server->Listen(); });
  while (!server->http.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return std::unique_ptr<AdminServer>(new AdminServer(std::move(server)));
}

AdminServer::AdminServer(std::unique_ptr<Server> server) : server_(std::move(server)) {}

AdminServer::~AdminServer() {
  server_->stops = true;
  // stop() does nothing before the loop has begun, and must not be called twice.
  while (!server_->has_stopped && !server_->http.is_running()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (!server_->has_stopped) server_->http.stop();
  server_->thread.join();
}

int AdminServer::port() const { return server_->port; }

void AdminServer::AddMetrics(const prometheus::Collectable& metrics) {
  std::lock_guard lock(server_->mutex);
  server_->metrics.push_back(&metrics);
}

void AdminServer::ShowStatus(StatusSource source) {
  std::lock_guard lock(server_->mutex);
  server_->source = std::move(source);
}

}  // namespace kvship
