#include "service/admin_server.h"

#include <httplib.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "service/listen_address.h"
#include "service/node_metrics.h"

namespace kvship {
namespace {

constexpr char kPlainText[] = "text/plain; charset=utf-8";
constexpr char kMetricsText[] = "text/plain; version=0.0.4; charset=utf-8";

// Probes and one scraper: a few connections at a time.
constexpr size_t kThreads = 4;

}  // namespace

struct AdminServer::Server {
  httplib::Server http;
  int port = 0;
  std::thread thread;
};

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(const std::string& program,
                                                                const std::string& address,
                                                                prometheus::Registry& registry,
                                                                const Readiness& readiness,
                                                                const std::string& certificate) {
  ASSIGN_OR_RETURN(const ListenAddress listen, ParseListenAddress("admin", address));
  auto server = std::make_unique<Server>();
  server->http.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  // By default two processes could share one port.
  server->http.set_socket_options([](int socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  server->http.Get("/metrics", [&registry, node = NodeMetrics(program, readiness, certificate)](
                                   const httplib::Request&, httplib::Response& response) {
    std::vector<prometheus::MetricFamily> families = registry.Collect();
    std::ranges::move(node.Collect(), std::back_inserter(families));
    response.set_content(prometheus::TextSerializer().Serialize(families), kMetricsText);
  });
  server->http.Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("ok\n", kPlainText);
  });
  server->http.Get("/readyz", [&readiness](const httplib::Request&, httplib::Response& response) {
    const absl::Status ready = readiness.Check();
    response.status = ready.ok() ? 200 : 503;
    response.set_content(ready.ok() ? "ok\n" : absl::StrCat(ready.message(), "\n"), kPlainText);
  });
  server->http.Get(
      "/", [program, &readiness](const httplib::Request&, httplib::Response& response) {
        const absl::Status ready = readiness.Check();
        response.set_content(
            absl::StrCat(program, "\n", ready.ok() ? "ready" : ready.message(),
                         "\n\n/metrics  Prometheus metrics\n/healthz  200 while the process runs\n",
                         "/readyz   200 when new requests are welcome\n"),
            kPlainText);
      });
  server->port = listen.port;
  if (listen.port == 0) {
    server->port = server->http.bind_to_any_port(listen.host);
  } else if (!server->http.bind_to_port(listen.host, listen.port)) {
    server->port = -1;
  }
  if (server->port <= 0) return CannotListen("admin", address);
  server->thread = std::thread([http = &server->http] { http->listen_after_bind(); });
  // stop() does nothing before the loop has begun.
  while (!server->http.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return std::unique_ptr<AdminServer>(new AdminServer(std::move(server)));
}

AdminServer::AdminServer(std::unique_ptr<Server> server) : server_(std::move(server)) {}

AdminServer::~AdminServer() {
  server_->http.stop();
  server_->thread.join();
}

int AdminServer::port() const { return server_->port; }

}  // namespace kvship
