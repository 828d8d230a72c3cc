#include "service/metric_factory.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace kvship {

std::string MetricPrefix(absl::string_view program) {
  return absl::StrCat(absl::StrReplaceAll(program, {{"-", "_"}}), "_");
}

std::string MetricFactory::FullName(absl::string_view name) const {
  return absl::StrCat(prefix_, name);
}

prometheus::Family<prometheus::Counter>& MetricFactory::Counters(absl::string_view name,
                                                                 const char* help) const {
  return prometheus::BuildCounter().Name(FullName(name)).Help(help).Register(registry_);
}

prometheus::Family<prometheus::Gauge>& MetricFactory::Gauges(absl::string_view name,
                                                             const char* help) const {
  return prometheus::BuildGauge().Name(FullName(name)).Help(help).Register(registry_);
}

prometheus::Family<prometheus::Histogram>& MetricFactory::Histograms(absl::string_view name,
                                                                     const char* help) const {
  return prometheus::BuildHistogram().Name(FullName(name)).Help(help).Register(registry_);
}

prometheus::Counter& MetricFactory::Counter(absl::string_view name, const char* help) const {
  return Counters(name, help).Add({});
}

prometheus::Gauge& MetricFactory::Gauge(absl::string_view name, const char* help) const {
  return Gauges(name, help).Add({});
}

prometheus::Histogram& MetricFactory::Histogram(
    absl::string_view name, const char* help,
    const prometheus::Histogram::BucketBoundaries& bounds) const {
  return Histograms(name, help).Add({}, bounds);
}

void BeginAtZero(prometheus::Family<prometheus::Counter>& family,
                 std::initializer_list<absl::StatusCode> codes) {
  for (const absl::StatusCode code : codes) {
    family.Add({{"code", absl::StatusCodeToString(code)}});
  }
}

prometheus::Family<prometheus::Counter>& MetricFactory::Requests() const {
  auto& requests =
      Counters("requests_total", "Requests that ended, by gRPC status code (OK, CANCELLED, ...)");
  BeginAtZero(requests, {absl::StatusCode::kOk, absl::StatusCode::kCancelled,
                         absl::StatusCode::kDeadlineExceeded, absl::StatusCode::kAborted,
                         absl::StatusCode::kResourceExhausted, absl::StatusCode::kUnavailable,
                         absl::StatusCode::kInternal});
  return requests;
}

prometheus::Family<prometheus::Gauge>& MetricFactory::ModelInfo() const {
  return Gauges("model_info", "1; the label names the model that is served");
}

prometheus::Histogram::BucketBoundaries RetainedMassBounds() {
  return {0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 1};
}

}  // namespace kvship
