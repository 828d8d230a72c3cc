#include "service/node_metrics.h"

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

NodeMetrics::NodeMetrics(const std::string& program, const Readiness& readiness,
                         std::string certificate)
    : prefix_(MetricPrefix(program)), readiness_(readiness), certificate_(std::move(certificate)) {}

std::vector<prometheus::MetricFamily> NodeMetrics::Collect() const {
  std::vector<prometheus::MetricFamily> families = {
      Gauge(prefix_ + "ready", "1 while new requests are welcome, as /readyz tells; otherwise 0",
            readiness_.Check().ok() ? 1 : 0),
      Gauge(prefix_ + "draining",
            "1 from SIGTERM on, while requests that run are brought to their end; otherwise 0",
            readiness_.draining() ? 1 : 0)};
  if (certificate_.empty()) return families;
  const auto validity = ReadCertificateValidity(certificate_);
  families.push_back(Gauge(prefix_ + "certificate_readable",
                           "1 if the file of --tls_cert holds a certificate, otherwise 0",
                           validity.ok() ? 1 : 0));
  if (validity.ok()) {
    families.push_back(Gauge(prefix_ + "certificate_not_before_timestamp_seconds",
                             "When the certificate of --tls_cert begins to be valid",
                             static_cast<double>(absl::ToUnixSeconds(validity->begin))));
    families.push_back(Gauge(prefix_ + "certificate_not_after_timestamp_seconds",
                             "When the certificate of --tls_cert expires",
                             static_cast<double>(absl::ToUnixSeconds(validity->end))));
  }
  return families;
}

}  // namespace kvship
