#include "prefill_service/prefill_metrics.h"

#include <cmath>

namespace kvship {
namespace {

using prometheus::Histogram;

// Prompts take from milliseconds to minutes.
Histogram::BucketBoundaries LongSeconds() {
  return {0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300};
}

// A step is one block of queries of one layer.
Histogram::BucketBoundaries StepSeconds() {
  return {0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10};
}

}  // namespace

PrefillMetrics::PrefillMetrics(prometheus::Registry& registry)
    : PrefillMetrics(MetricFactory(registry, "kvship-prefill")) {}

PrefillMetrics::PrefillMetrics(const MetricFactory& make)
    : prompt_tokens(
          make.Counter("prompt_tokens_total", "Prompt tokens of requests that were served")),
      reused_tokens(
          make.Counter("reused_tokens_total",
                       "Of them those that were not read, as earlier prompts began alike")),
      uncompressed_bytes(make.Counter("uncompressed_bytes_total",
                                      "Bytes that keeping every token would have shipped")),
      shipped_bytes(
          make.Counter("shipped_bytes_total", "Bytes of compact caches that were shipped")),
      queue_requests(make.Gauge("queue_requests", "Requests that wait for their turn")),
      queue_tokens(
          make.Gauge("queue_tokens", "Prompt tokens of requests admitted and not yet read")),
      unread_tokens(make.Gauge("unread_tokens",
                               "Of them those left to read, without what is read of the prompt "
                               "under way and what the prefix cache has")),
      active_requests(
          make.Gauge("active_requests", "Requests that have been told Ready and are not yet read")),
      sending_requests(
          make.Gauge("sending_requests", "Requests that have been read, not all of them sent yet")),
      outbox_bytes(make.Gauge("outbox_bytes", "Bytes sent that readers have not taken yet")),
      prefix_cache_bytes(
          make.Gauge("prefix_cache_bytes", "Memory that holds beginnings of earlier prompts")),
      queue_seconds(make.Histogram("queue_seconds", "From a request's arrival to its first step",
                                   LongSeconds())),
      prefill_seconds(make.Histogram("compute_seconds",
                                     "Reading one prompt, compression not counted", LongSeconds())),
      compress_seconds(make.Histogram("compress_seconds", "Compressing the layers of one prompt",
                                      LongSeconds())),
      step_seconds(make.Histogram("step_seconds",
                                  "One block of queries of one layer, with what ends the layer",
                                  StepSeconds())),
      run_requests(make.Histogram("run_requests", "Prompts read side by side in one run",
                                  Histogram::BucketBoundaries{1, 2, 4, 8, 16})),
      model_(make.ModelInfo()),
      requests_(make.Requests()),
      retained_mass_(make.Histograms(
          "retained_mass_ratio", "Share of the window's attention on kept tokens, per layer")) {}

void PrefillMetrics::SetModel(const std::string& name) { model_.Add({{"model", name}}).Set(1); }

void PrefillMetrics::CountRequest(absl::StatusCode outcome) {
  requests_.Add({{"code", absl::StatusCodeToString(outcome)}}).Increment();
}

void PrefillMetrics::ObserveRetainedMass(const CompressionOptions& policy, double mass) {
  // A model whose activations overflow gives NaN, which would stay in the sum for good.
  if (std::isnan(mass)) return;
  retained_mass_
      .Add({{"scorer", policy.scorer},
            {"allocator", policy.allocator},
            {"selector", policy.selector}},
           RetainedMassBounds())
      .Observe(mass);
}

}  // namespace kvship
