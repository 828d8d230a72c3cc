// PrefillMetrics holds the metrics of a prefill node; every name begins with kvship_prefill_.
// Thread safe.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <string>

#include "absl/status/status.h"
#include "kv/compression_options.h"
#include "service/metric_factory.h"

namespace kvship {

class PrefillMetrics {
 public:
  // Borrows the registry.
  explicit PrefillMetrics(prometheus::Registry& registry);

  // Sets the name of the served model; call once.
  void SetModel(const std::string& name);
  // Counts a request that ended or was refused.
  void CountRequest(absl::StatusCode outcome);
  // Observes the retained attention mass of one layer, its heads' mean; ignores NaN.
  void ObserveRetainedMass(const CompressionOptions& policy, double mass);

  prometheus::Counter& prompt_tokens;
  prometheus::Counter& reused_tokens;
  prometheus::Counter& uncompressed_bytes;
  prometheus::Counter& shipped_bytes;
  prometheus::Gauge& queue_requests;
  prometheus::Gauge& queue_tokens;
  prometheus::Gauge& unread_tokens;
  prometheus::Gauge& active_requests;
  prometheus::Gauge& sending_requests;
  prometheus::Gauge& outbox_bytes;
  prometheus::Gauge& prefix_cache_bytes;
  prometheus::Histogram& queue_seconds;
  prometheus::Histogram& prefill_seconds;
  prometheus::Histogram& compress_seconds;
  prometheus::Histogram& step_seconds;
  prometheus::Histogram& run_requests;

 private:
  explicit PrefillMetrics(const MetricFactory& make);

  prometheus::Family<prometheus::Gauge>& model_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Histogram>& retained_mass_;
};

}  // namespace kvship
