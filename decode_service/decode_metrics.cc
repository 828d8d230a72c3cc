#include "decode_service/decode_metrics.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"

namespace kvship {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using prometheus::Histogram;
using prometheus::Registry;

std::string FullName(absl::string_view name) { return absl::StrCat("kvship_decode_", name); }

prometheus::Counter& Counter(Registry& registry, absl::string_view name, const char* help) {
  return BuildCounter().Name(FullName(name)).Help(help).Register(registry).Add({});
}

prometheus::Gauge& Gauge(Registry& registry, absl::string_view name, const char* help) {
  return BuildGauge().Name(FullName(name)).Help(help).Register(registry).Add({});
}

Histogram& Distribution(Registry& registry, absl::string_view name, const char* help,
                        const Histogram::BucketBoundaries& bounds) {
  return BuildHistogram().Name(FullName(name)).Help(help).Register(registry).Add({}, bounds);
}

// From a cached short prompt to a long one on a slow machine.
const Histogram::BucketBoundaries kFirstTokenSeconds = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                                        2.5,  5,     10,   25,  50,   100};
const Histogram::BucketBoundaries kBetweenTokensSeconds = {0.001, 0.0025, 0.005, 0.01, 0.025,
                                                           0.05,  0.1,    0.25,  0.5,  1};
const Histogram::BucketBoundaries kBatchSessions = {1, 2, 4, 8, 16, 32, 64};
// Finer towards 1, where answers are still right.
const Histogram::BucketBoundaries kRetainedMass = {0.1, 0.25, 0.5,  0.6,  0.7,  0.8,
                                                   0.9, 0.95, 0.98, 0.99, 0.999};

}  // namespace

DecodeMetrics::DecodeMetrics(Registry& r)
    : requests_(BuildCounter()
                    .Name(FullName("requests_total"))
                    .Help("Requests that ended, by gRPC status code")
                    .Register(r)),
      prompt_tokens_(Counter(r, "prompt_tokens_total", "Prompt tokens of requests that succeeded")),
      output_tokens_(Counter(r, "output_tokens_total", "Output tokens of requests that succeeded")),
      kept_tokens_(Counter(r, "kept_tokens_total",
                           "Prompt tokens kept per KV head, the mean over layers and heads")),
      uncompressed_bytes_(Counter(r, "kv_uncompressed_bytes_total",
                                  "KV bytes that keeping whole prompts would have shipped")),
      shipped_bytes_(Counter(r, "kv_shipped_bytes_total", "KV bytes that crossed the wire")),
      saved_bytes_(Counter(r, "kv_saved_bytes_total", "KV bytes that did not have to be shipped")),
      prefill_retries_(
          BuildCounter()
              .Name(FullName("prefill_retries_total"))
              .Help("Prompts sent to another prefill node, by what was wrong with the one before")
              .Register(r)),
      prefill_ejections_(Counter(r, "prefill_ejections_total",
                                 "Times that a prefill node got no prompts after a failure")),
      prefill_nodes_(BuildGauge()
                         .Name(FullName("prefill_nodes"))
                         .Help("Prefill nodes that are known, by standing")
                         .Register(r)),
      pool_capacity_bytes_(Gauge(r, "pool_capacity_bytes", "Bytes of the KV pool")),
      pool_reserved_bytes_(Gauge(r, "pool_reserved_bytes", "Bytes of the KV pool handed out")),
      sessions_(Gauge(r, "sessions", "Requests whose output is being made")),
      waiting_tokens_(
          Gauge(r, "waiting_prompt_tokens", "Prompt tokens of requests that wait for memory")),
      batch_sessions_(
          Distribution(r, "batch_sessions", "Sessions in a decode step", kBatchSessions)),
      first_token_seconds_(Distribution(r, "time_to_first_token_seconds",
                                        "From a request's arrival to its first output token",
                                        kFirstTokenSeconds)),
      between_tokens_seconds_(Distribution(r, "time_between_tokens_seconds",
                                           "From an output token to the next one of its request",
                                           kBetweenTokensSeconds)),
      retained_mass_(BuildHistogram()
                         .Name(FullName("retained_mass_ratio"))
                         .Help("Share of the window's attention on kept tokens, by policy")
                         .Register(r)) {}

void DecodeMetrics::CountRequest(const absl::Status& status) {
  requests_.Add({{"code", absl::StatusCodeToString(status.code())}}).Increment();
}

void DecodeMetrics::CountReport(const v1::GenerateReport& report) {
  const v1::KvReport& kv = report.kv();
  prompt_tokens_.Increment(report.usage().prompt_tokens());
  output_tokens_.Increment(report.usage().output_tokens());
  kept_tokens_.Increment(kv.kept_tokens());
  uncompressed_bytes_.Increment(static_cast<double>(kv.uncompressed_bytes()));
  shipped_bytes_.Increment(static_cast<double>(kv.shipped_bytes()));
  // Where a budget barely below the prompt's length drops nothing, positions can make it negative.
  if (kv.uncompressed_bytes() > kv.shipped_bytes()) {
    saved_bytes_.Increment(static_cast<double>(kv.uncompressed_bytes() - kv.shipped_bytes()));
  }
  const v1::CompressionOptions& policy = kv.compression();
  retained_mass_
      .Add({{"scorer", policy.scorer()},
            {"allocator", policy.allocator()},
            {"selector", policy.selector()}},
           kRetainedMass)
      .Observe(kv.retained_mass_mean());
}

void DecodeMetrics::ObserveFirstToken(absl::Duration since_arrival) {
  first_token_seconds_.Observe(absl::ToDoubleSeconds(since_arrival));
}

void DecodeMetrics::ObserveBetweenTokens(absl::Duration between) {
  between_tokens_seconds_.Observe(absl::ToDoubleSeconds(between));
}

void DecodeMetrics::ObserveBatch(size_t num_sessions) {
  batch_sessions_.Observe(static_cast<double>(num_sessions));
}

void DecodeMetrics::SetSessions(size_t num_sessions) {
  sessions_.Set(static_cast<double>(num_sessions));
}

void DecodeMetrics::SetPool(size_t capacity_bytes, size_t reserved_bytes) {
  pool_capacity_bytes_.Set(static_cast<double>(capacity_bytes));
  pool_reserved_bytes_.Set(static_cast<double>(reserved_bytes));
}

void DecodeMetrics::SetWaitingTokens(size_t prompt_tokens) {
  waiting_tokens_.Set(static_cast<double>(prompt_tokens));
}

void DecodeMetrics::CountPrefillRetry(absl::string_view reason) {
  prefill_retries_.Add({{"reason", std::string(reason)}}).Increment();
}

void DecodeMetrics::CountPrefillEjection() { prefill_ejections_.Increment(); }

void DecodeMetrics::SetPrefillNodes(absl::string_view standing, size_t num_nodes) {
  prefill_nodes_.Add({{"standing", std::string(standing)}}).Set(static_cast<double>(num_nodes));
}

}  // namespace kvship
