#include "prefill_service/prefill_metrics.h"

#include <cmath>

namespace kvship {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using prometheus::Histogram;
using prometheus::Registry;

prometheus::Counter& Counter(Registry& registry, const char* name, const char* help) {
  return BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

prometheus::Gauge& Gauge(Registry& registry, const char* name, const char* help) {
  return BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

// Prompts take from milliseconds to minutes.
Histogram::BucketBoundaries LongSeconds() {
  return {0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300};
}

// A step is one block of queries of one layer.
Histogram::BucketBoundaries StepSeconds() {
  return {0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10};
}

// Most of what matters happens close to 1.
Histogram::BucketBoundaries MassShares() {
  return {0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 1};
}

Histogram& Seconds(Registry& registry, const char* name, const char* help,
                   const Histogram::BucketBoundaries& bounds) {
  return BuildHistogram().Name(name).Help(help).Register(registry).Add({}, bounds);
}

}  // namespace

PrefillMetrics::PrefillMetrics(Registry& registry)
    : prompt_tokens(Counter(registry, "kvship_prefill_prompt_tokens_total",
                            "Prompt tokens of requests that were served")),
      uncompressed_bytes(Counter(registry, "kvship_prefill_uncompressed_bytes_total",
                                 "Bytes that keeping every token would have shipped")),
      shipped_bytes(Counter(registry, "kvship_prefill_shipped_bytes_total",
                            "Bytes of compact caches that were shipped")),
      queue_requests(
          Gauge(registry, "kvship_prefill_queue_requests", "Requests that wait for their turn")),
      queue_tokens(Gauge(registry, "kvship_prefill_queue_tokens",
                         "Prompt tokens of requests admitted and not yet ended")),
      active_requests(Gauge(registry, "kvship_prefill_active_requests",
                            "Requests that have been told Ready and have not ended")),
      outbox_bytes(Gauge(registry, "kvship_prefill_outbox_bytes",
                         "Bytes sent that readers have not taken yet")),
      queue_seconds(Seconds(registry, "kvship_prefill_queue_seconds",
                            "From a request's arrival to its first step", LongSeconds())),
      prefill_seconds(Seconds(registry, "kvship_prefill_compute_seconds",
                              "Reading one prompt, compression not counted", LongSeconds())),
      compress_seconds(Seconds(registry, "kvship_prefill_compress_seconds",
                               "Compressing the layers of one prompt", LongSeconds())),
      step_seconds(Seconds(registry, "kvship_prefill_step_seconds",
                           "One block of queries of one layer, with what ends the layer",
                           StepSeconds())),
      run_requests(BuildHistogram()
                       .Name("kvship_prefill_run_requests")
                       .Help("Prompts read side by side in one run")
                       .Register(registry)
                       .Add({}, Histogram::BucketBoundaries{1, 2, 4, 8, 16})),
      model_(BuildGauge()
                 .Name("kvship_prefill_model_info")
                 .Help("1; the label names the model that is served")
                 .Register(registry)),
      requests_(BuildCounter()
                    .Name("kvship_prefill_requests_total")
                    .Help("Requests that ended, by gRPC status code (OK, CANCELLED, ...)")
                    .Register(registry)),
      retained_mass_(BuildHistogram()
                         .Name("kvship_prefill_retained_mass_ratio")
                         .Help("Share of the window's attention on kept tokens, per layer")
                         .Register(registry)) {
  // A counter that appears with its first event has, to Prometheus, never increased.
  for (const absl::StatusCode code :
       {absl::StatusCode::kOk, absl::StatusCode::kCancelled, absl::StatusCode::kDeadlineExceeded,
        absl::StatusCode::kAborted, absl::StatusCode::kResourceExhausted,
        absl::StatusCode::kUnavailable, absl::StatusCode::kInternal}) {
    requests_.Add({{"code", absl::StatusCodeToString(code)}});
  }
}

void PrefillMetrics::SetModel(const std::string& name) { model_.Add({{"model", name}}).Set(1); }

void PrefillMetrics::CountRequest(absl::StatusCode outcome) {
  requests_.Add({{"code", absl::StatusCodeToString(outcome)}}).Increment();
}

void PrefillMetrics::ObserveRetainedMass(const CompressionOptions& policy, double mass) {
  // Of a model whose activations overflow: it would stay in the sum for good.
  if (std::isnan(mass)) return;
  retained_mass_
      .Add({{"scorer", policy.scorer},
            {"allocator", policy.allocator},
            {"selector", policy.selector}},
           MassShares())
      .Observe(mass);
}

}  // namespace kvship
