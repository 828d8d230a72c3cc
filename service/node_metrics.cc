#include "service/node_metrics.h"

#include <optional>
#include <utility>

#include "rpc/tls.h"
#include "service/metric_factory.h"

namespace kvship {
namespace {

prometheus::MetricFamily Gauge(std::string name, std::string help, double value) {
  prometheus::ClientMetric metric;
  metric.gauge.value = value;
  return {std::move(name), std::move(help), prometheus::MetricType::Gauge, {std::move(metric)}};
}

}  // namespace

NodeMetrics::NodeMetrics(const std::string& program, const Readiness& readiness, ApiTokens* tokens)
    : prefix_(MetricPrefix(program)), readiness_(readiness), tokens_(tokens) {}

std::vector<prometheus::MetricFamily> NodeMetrics::Collect() const {
  std::vector<prometheus::MetricFamily> families = {
      Gauge(prefix_ + "ready", "1 while new requests are welcome, as /readyz tells; otherwise 0",
            readiness_.Check().ok() ? 1 : 0),
      Gauge(prefix_ + "draining",
            "1 from SIGTERM on, while requests that run are brought to their end; otherwise 0",
            readiness_.draining() ? 1 : 0)};
  if (tokens_ != nullptr) {
    families.push_back(Gauge(prefix_ + "api_tokens_current",
                             "1 if the tokens in use are those in --api_tokens_file; 0 if that "
                             "cannot be used as it is, and earlier ones go on",
                             tokens_->AreCurrent() ? 1 : 0));
  }
  const std::optional<TlsInUse> tls = FindTlsInUse();
  if (!tls.has_value()) return families;
  families.push_back(Gauge(prefix_ + "tls_files_current",
                           "1 if the certificate, key and authorities in use are those in their "
                           "files; 0 if these cannot be used as they are, and earlier ones go on",
                           tls->is_current ? 1 : 0));
  if (!tls->validity.has_value()) return families;
  families.push_back(Gauge(prefix_ + "certificate_not_before_timestamp_seconds",
                           "When the certificate in use begins to be valid",
                           static_cast<double>(absl::ToUnixSeconds(tls->validity->begin))));
  families.push_back(Gauge(prefix_ + "certificate_not_after_timestamp_seconds",
                           "When the certificate in use expires",
                           static_cast<double>(absl::ToUnixSeconds(tls->validity->end))));
  return families;
}

}  // namespace kvship
