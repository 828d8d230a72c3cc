#include "service/admin_server.h"

#include <prometheus/text_serializer.h>

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status_macros.h"
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

// For probes: a browser that keeps a connection open, or who sends half a request, must not hold
// them up. Requests here have a line and some headers.
constexpr HttpServer::Limits kLimits = {.max_connections = 64,
                                        .crowded_time = absl::Milliseconds(100),
                                        .max_header_bytes = 16 << 10,
                                        .header_time = absl::Seconds(2),
                                        .max_connection_age = absl::ZeroDuration()};

// For answers in progress.
constexpr absl::Duration kStopGrace = absl::Seconds(1);

}  // namespace

AdminServer::AdminServer(const std::string& program)
    : program_(program), started_(MonotonicNow()), http_(kLimits) {}

nlohmann::ordered_json AdminServer::Status(const Readiness& readiness) {
  const absl::Status ready = readiness.Check();
  nlohmann::ordered_json status = {
      {"program", program_},
      {"ready", ready.ok()},
      {"reason", std::string(ready.message())},
      {"time", absl::FormatTime(absl::RFC3339_sec, absl::Now(), absl::UTCTimeZone())},
      {"uptime_seconds", absl::ToDoubleSeconds(MonotonicNow() - started_)}};
  std::lock_guard lock(mutex_);
  if (source_) status.update(source_());
  return status;
}

void AdminServer::AddHandlers(const Metrics& metrics, const Readiness& readiness) {
  using httplib::Request;
  using httplib::Response;
  http_.Get("/metrics", [metrics](const Request&, Response& response) {
    std::vector<prometheus::MetricFamily> families;
    for (const prometheus::Collectable* some : metrics) {
      std::ranges::move(some->Collect(), std::back_inserter(families));
    }
    response.set_content(prometheus::TextSerializer().Serialize(families), kMetricsText);
  });
  const auto answer = [](const absl::Status& status, Response& response) {
    response.status = status.ok() ? 200 : 503;
    response.set_content(status.ok() ? "ok\n" : absl::StrCat(status.message(), "\n"), kPlainText);
  };
  http_.Get("/healthz", [&readiness, answer](const Request&, Response& response) {
    const absl::Status status = readiness.Check();
    answer(absl::IsInternal(status) ? status : absl::OkStatus(), response);
  });
  http_.Get("/readyz", [&readiness, answer](const Request&, Response& response) {
    answer(readiness.Check(), response);
  });
  http_.Get("/status.json", [this, &readiness](const Request&, Response& response) {
    response.set_header("Cache-Control", "no-store");
    response.set_content(
        Status(readiness).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), kJson);
  });
  http_.Get("/", [](const Request&, Response& response) {
    response.set_header("Content-Security-Policy", kPagePolicy);
    response.set_content(kStatusPage, kHtml);
  });
}

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(const std::string& program,
                                                                const std::string& address,
                                                                const Metrics& metrics,
                                                                const Readiness& readiness) {
  std::unique_ptr<AdminServer> server(new AdminServer(program));
  server->AddHandlers(metrics, readiness);
  RETURN_IF_ERROR(server->http_.Listen("admin", address));
  return server;
}

AdminServer::~AdminServer() { http_.Stop(kStopGrace); }

void AdminServer::ShowStatus(StatusSource source) {
  std::lock_guard lock(mutex_);
  source_ = std::move(source);
}

}  // namespace kvship
