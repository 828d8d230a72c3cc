// TraceExporter sends spans to an OpenTelemetry collector, as OTLP/HTTP in JSON, from its own
// thread. It never blocks callers: spans that exceed its bounded queue, and those that the
// collector does not accept at once, are dropped and counted. Thread safe.
#pragma once

#include <prometheus/registry.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "service/trace_span.h"

namespace kvship {

class TraceExporter {
 public:
  // `service` names the program to the collector, "kvship-decode", beside its version and the host;
  // its metrics are kvship_decode_trace_spans_{exported,dropped}_total. `endpoint` is as of
  // ParseTraceEndpoint, whose errors these are. Borrows the registry.
  static absl::StatusOr<std::unique_ptr<TraceExporter>> Create(const std::string& service,
                                                               const std::string& endpoint,
                                                               prometheus::Registry& registry);
  // Sends queued spans, for at most 2.5 seconds. A thread that the collector, or a name server that
  // does not answer, holds up for longer is left behind, and its spans are dropped.
  ~TraceExporter();

  void Add(TraceSpan span);

 private:
  struct State;

  explicit TraceExporter(std::shared_ptr<State> state);
  static void Run(State& state);

  const std::shared_ptr<State> state_;  // shared with the thread, which may outlive this
  std::thread thread_;
};

}  // namespace kvship
