// TraceExporter sends spans to an OpenTelemetry collector, as OTLP/HTTP in JSON, from its own
// thread. It never blocks callers: spans that exceed its bounded queue, and those that the
// collector does not accept at once, are dropped and counted. Thread safe.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/registry.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "service/trace_span.h"

namespace httplib {
class Client;
}

namespace kvship {

class TraceExporter {
 public:
  // `service` names the program to the collector, "kvship-decode", beside its version and the host;
  // its metrics are kvship_decode_trace_spans_{exported,dropped}_total. `endpoint` is
  // "http://HOST:PORT"; it may be https, and may have a path. Spans go to its /v1/traces. Borrows
  // the registry. InvalidArgument naming --otlp_endpoint.
  static absl::StatusOr<std::unique_ptr<TraceExporter>> Create(const std::string& service,
                                                               const std::string& endpoint,
                                                               prometheus::Registry& registry);
  // Sends queued spans, for at most two seconds, or three if the collector is unreachable.
  ~TraceExporter();

  void Add(TraceSpan span);

 private:
  struct Endpoint {
    std::string origin;  // "http://host:4318"
    std::string path;
  };

  TraceExporter(const std::string& service, const Endpoint& endpoint,
                prometheus::Registry& registry);
  static absl::StatusOr<Endpoint> ParseEndpoint(const std::string& text);
  void Run();
  // Returns whether the collector accepted them.
  bool Send(const std::vector<TraceSpan>& spans);

  const std::vector<TraceSpan::Attribute> resource_;
  const Endpoint endpoint_;
  prometheus::Counter& exported_;
  prometheus::Counter& dropped_;
  const std::unique_ptr<httplib::Client> client_;
  bool reachable_ = true;  // of the thread: so that it logs once

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable sent_all_;
  std::vector<TraceSpan> queue_;
  bool stop_ = false;
  bool done_ = false;  // the thread has nothing more to do
  std::thread thread_;
};

}  // namespace kvship
