#include "service/trace_exporter.h"

#include <httplib.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <iterator>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/start_thread.h"
#include "base/status_macros.h"
#include "service/metric_factory.h"
#include "service/trace_json.h"

namespace kvship {
namespace {

// A request has about ten spans of some 500 bytes each.
constexpr size_t kMostQueued = 8192;
constexpr size_t kMostInOneBody = 512;
// How old spans get before they are sent, where they are few.
constexpr std::chrono::seconds kPeriod(1);

constexpr std::chrono::seconds kConnectTimeout(1);
constexpr std::chrono::seconds kAnswerTimeout(2);
// For what is left at the end.
constexpr std::chrono::seconds kFlushTimeout(2);

// What tells this process from others, in OpenTelemetry's names. In a pod the host is called as it.
std::vector<TraceSpan::Attribute> Resource(const std::string& service) {
  char host[HOST_NAME_MAX + 1] = {};
  gethostname(host, HOST_NAME_MAX);
  return {{"service.name", service},
          {"service.version", std::string(KVSHIP_VERSION)},
          {"service.instance.id", std::string(host)}};
}

absl::Status WrongEndpoint(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "--otlp_endpoint, or OTEL_EXPORTER_OTLP_ENDPOINT where that is empty, is '", text,
      "'; wanted http://HOST:PORT of an OTLP collector, "
      "as http://127.0.0.1:4318"));
}

}  // namespace

absl::StatusOr<TraceExporter::Endpoint> TraceExporter::ParseEndpoint(const std::string& text) {
  absl::string_view rest = text;
  if (!absl::ConsumePrefix(&rest, "http://") && !absl::ConsumePrefix(&rest, "https://")) {
    return WrongEndpoint(text);
  }
  const absl::string_view host_and_port = rest.substr(0, rest.find('/'));
  const absl::string_view prefix = absl::StripSuffix(rest.substr(host_and_port.size()), "/");
  const size_t colon = host_and_port.rfind(':');
  // The last colon of an IPv6 address without a port is inside of its brackets.
  if (colon != absl::string_view::npos && !absl::EndsWith(host_and_port, "]")) {
    uint32_t port = 0;
    if (!absl::SimpleAtoi(host_and_port.substr(colon + 1), &port) || port == 0 || port > 65535) {
      return WrongEndpoint(text);
    }
  }
  if (host_and_port.empty() || colon == 0) return WrongEndpoint(text);
  return Endpoint{.origin = text.substr(0, text.size() - rest.size() + host_and_port.size()),
                  .path = absl::StrCat(prefix, "/v1/traces")};
}

absl::StatusOr<std::unique_ptr<TraceExporter>> TraceExporter::Create(
    const std::string& service, const std::string& endpoint, prometheus::Registry& registry) {
  ASSIGN_OR_RETURN(const Endpoint parsed, ParseEndpoint(endpoint));
  return std::unique_ptr<TraceExporter>(new TraceExporter(service, parsed, registry));
}

TraceExporter::TraceExporter(const std::string& service, const Endpoint& endpoint,
                             prometheus::Registry& registry)
    : resource_(Resource(service)),
      endpoint_(endpoint),
      exported_(MetricFactory(registry, service)
                    .Counter("trace_spans_exported_total", "Spans that the collector has taken")),
      dropped_(MetricFactory(registry, service)
                   .Counter("trace_spans_dropped_total",
                            "Spans that the collector did not take, or that came too fast for it")),
      client_(std::make_unique<httplib::Client>(endpoint.origin)) {
  client_->set_connection_timeout(kConnectTimeout);
  client_->set_read_timeout(kAnswerTimeout);
  client_->set_write_timeout(kAnswerTimeout);
  client_->set_keep_alive(true);
  thread_ = StartThread("traces", [this] { Run(); });
}

TraceExporter::~TraceExporter() {
  {
    std::unique_lock lock(mutex_);
    stop_ = true;
    wake_.notify_one();
    sent_all_.wait_for(lock, kFlushTimeout, [this] { return done_; });
    if (!done_) dropped_.Increment(static_cast<double>(std::exchange(queue_, {}).size()));
  }
  client_->stop();
  thread_.join();
}

void TraceExporter::Add(TraceSpan span) {
  std::lock_guard lock(mutex_);
  if (queue_.size() == kMostQueued) return dropped_.Increment();
  queue_.push_back(std::move(span));
  if (queue_.size() >= kMostInOneBody) wake_.notify_one();
}

void TraceExporter::Run() {
  std::unique_lock lock(mutex_);
  while (!stop_ || !queue_.empty()) {
    wake_.wait_for(lock, kPeriod, [this] { return stop_ || queue_.size() >= kMostInOneBody; });
    const auto end = queue_.begin() + std::min(queue_.size(), kMostInOneBody);
    const std::vector<TraceSpan> batch(std::make_move_iterator(queue_.begin()),
                                       std::make_move_iterator(end));
    queue_.erase(queue_.begin(), end);
    if (batch.empty()) continue;
    lock.unlock();
    bool taken = false;
    UnlessOutOfMemory([&] {
      taken = Send(batch);
      return absl::OkStatus();
    }).IgnoreError();  // what is not taken is counted
    (taken ? exported_ : dropped_).Increment(static_cast<double>(batch.size()));
    lock.lock();
  }
  done_ = true;
  sent_all_.notify_one();
}

bool TraceExporter::Send(const std::vector<TraceSpan>& spans) {
  const std::string body = TraceJson(resource_, spans, absl::Now() - MonotonicNow());
  const httplib::Result result = client_->Post(endpoint_.path, body, "application/json");
  const bool taken = result && result->status / 100 == 2;
  if (!taken && reachable_) {
    LogWarning(absl::StrCat(
        "spans are dropped: ", endpoint_.origin, endpoint_.path,
        result ? absl::StrCat(" answers with status ", result->status)
               : absl::StrCat(" cannot be reached (", httplib::to_string(result.error()), ")")));
  }
  if (taken && !reachable_) LogInfo(absl::StrCat("spans are taken again by ", endpoint_.origin));
  reachable_ = taken;
  return taken;
}

}  // namespace kvship
