#include "service/trace_exporter.h"

#include <httplib.h>
#include <prometheus/counter.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <iterator>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/start_thread.h"
#include "base/status_macros.h"
#include "service/metric_factory.h"
#include "service/trace_endpoint.h"
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
// For what is left at the end. No sum of the times above, so that a thread that is left behind does
// not come back just while the process exits.
constexpr std::chrono::milliseconds kFlushTimeout(2500);

// What tells this process from others, in OpenTelemetry's names. In a pod the host is called as it.
std::vector<TraceSpan::Attribute> Resource(const std::string& service) {
  char host[HOST_NAME_MAX + 1] = {};
  gethostname(host, HOST_NAME_MAX);
  return {{"service.name", service},
          {"service.version", std::string(KVSHIP_VERSION)},
          {"service.instance.id", std::string(host)}};
}

std::unique_ptr<httplib::ClientImpl> ClientOf(const TraceEndpoint& endpoint) {
  // httplib::Client, which takes addresses as text, knows none of IPv6 with letters.
  std::unique_ptr<httplib::ClientImpl> client;
  if (endpoint.is_https) {
    client = std::make_unique<httplib::SSLClient>(endpoint.host, endpoint.port);
  } else {
    client = std::make_unique<httplib::ClientImpl>(endpoint.host, endpoint.port);
  }
  client->set_connection_timeout(kConnectTimeout);
  client->set_read_timeout(kAnswerTimeout);
  client->set_write_timeout(kAnswerTimeout);
  client->set_keep_alive(true);
  return client;
}

}  // namespace

struct TraceExporter::State {
  State(const std::string& service, const TraceEndpoint& endpoint, const MetricFactory& metrics)
      : resource(Resource(service)),
        endpoint(endpoint),
        client(ClientOf(endpoint)),
        exported(
            metrics.Counter("trace_spans_exported_total", "Spans that the collector has taken")),
        dropped(metrics.Counter(
            "trace_spans_dropped_total",
            "Spans that the collector did not take, or that came too fast for it")) {}

  // Unavailable if the collector did not accept them.
  absl::Status Send(const std::vector<TraceSpan>& spans) const;
  void LogChange(const absl::Status& sent);

  const std::vector<TraceSpan::Attribute> resource;
  const TraceEndpoint endpoint;
  const std::unique_ptr<httplib::ClientImpl> client;
  bool is_reachable = true;  // of the thread: so that it logs once

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<TraceSpan> queue;
  size_t num_sending = 0;  // spans that the thread has taken from the queue
  bool stop = false;
  bool done = false;  // the thread has nothing more to do
  // The thread came too late: neither the registry nor the log may be there any more.
  bool left_behind = false;
  prometheus::Counter& exported;
  prometheus::Counter& dropped;
};

absl::StatusOr<std::unique_ptr<TraceExporter>> TraceExporter::Create(
    const std::string& service, const std::string& endpoint, prometheus::Registry& registry) {
  ASSIGN_OR_RETURN(const TraceEndpoint parsed, ParseTraceEndpoint(endpoint));
  auto state = std::make_shared<State>(service, parsed, MetricFactory(registry, service));
  return std::unique_ptr<TraceExporter>(new TraceExporter(std::move(state)));
}

TraceExporter::TraceExporter(std::shared_ptr<State> state) : state_(std::move(state)) {
  thread_ = StartThread("traces", [state = state_] { Run(*state); });
}

TraceExporter::~TraceExporter() {
  State& state = *state_;
  std::unique_lock lock(state.mutex);
  state.stop = true;
  state.changed.notify_one();
  state.changed.wait_for(lock, kFlushTimeout, [&state] { return state.done; });
  state.dropped.Increment(static_cast<double>(state.queue.size() + state.num_sending));
  state.queue.clear();
  // What else the thread may be at, as a line of the log, is soon over.
  state.left_behind = state.num_sending > 0;
  const bool left_behind = state.left_behind;
  lock.unlock();
  left_behind ? thread_.detach() : thread_.join();
}

void TraceExporter::Add(TraceSpan span) {
  State& state = *state_;
  std::lock_guard lock(state.mutex);
  if (state.queue.size() == kMostQueued) return state.dropped.Increment();
  state.queue.push_back(std::move(span));
  if (state.queue.size() >= kMostInOneBody) state.changed.notify_one();
}

void TraceExporter::Run(State& state) {
  std::unique_lock lock(state.mutex);
  std::vector<TraceSpan>& queue = state.queue;
  while (!state.stop || !queue.empty()) {
    state.changed.wait_for(lock, kPeriod,
                           [&] { return state.stop || queue.size() >= kMostInOneBody; });
    const auto end = queue.begin() + std::min(queue.size(), kMostInOneBody);
    const std::vector<TraceSpan> batch(std::make_move_iterator(queue.begin()),
                                       std::make_move_iterator(end));
    queue.erase(queue.begin(), end);
    if (batch.empty()) continue;
    state.num_sending = batch.size();
    lock.unlock();
    const absl::Status sent = UnlessOutOfMemory([&] { return state.Send(batch); });
    lock.lock();
    if (state.left_behind) return;
    state.num_sending = 0;
    (sent.ok() ? state.exported : state.dropped).Increment(static_cast<double>(batch.size()));
    lock.unlock();
    UnlessOutOfMemory([&] {
      state.LogChange(sent);
      return absl::OkStatus();
    }).IgnoreError();  // what is not taken has been counted
    lock.lock();
  }
  state.done = true;
  state.changed.notify_one();
}

absl::Status TraceExporter::State::Send(const std::vector<TraceSpan>& spans) const {
  const std::string body = TraceJson(resource, spans, absl::Now() - MonotonicNow());
  const httplib::Result result = client->Post(endpoint.path, body, "application/json");
  if (!result) {
    return absl::UnavailableError(absl::StrCat(endpoint.url, " cannot be reached (",
                                               httplib::to_string(result.error()), ")"));
  }
  if (result->status / 100 == 2) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat(endpoint.url, " answers with status ", result->status));
}

void TraceExporter::State::LogChange(const absl::Status& sent) {
  if (!sent.ok() && is_reachable) LogWarning(absl::StrCat("spans are dropped: ", sent.message()));
  if (sent.ok() && !is_reachable) LogInfo(absl::StrCat("spans are taken again by ", endpoint.url));
  is_reachable = sent.ok();
}

}  // namespace kvship
