#include "service/metric_values.h"

namespace kvship {
namespace {

// All but one of them are 0.
double ValueOf(const prometheus::ClientMetric& metric) {
  return metric.counter.value + metric.gauge.value + metric.histogram.sample_sum;
}

}  // namespace

const prometheus::MetricFamily* MetricValues::Find(const std::string& name) const {
  for (const prometheus::MetricFamily& family : families_) {
    if (family.name == name) return &family;
  }
  return nullptr;
}

double MetricValues::Sum(const std::string& name) const {
  double sum = 0;
  if (const prometheus::MetricFamily* family = Find(name)) {
    for (const prometheus::ClientMetric& metric : family->metric) sum += ValueOf(metric);
  }
  return sum;
}

uint64_t MetricValues::Observations(const std::string& name) const {
  uint64_t sum = 0;
  if (const prometheus::MetricFamily* family = Find(name)) {
    for (const prometheus::ClientMetric& metric : family->metric) {
      sum += metric.histogram.sample_count;
    }
  }
  return sum;
}

std::map<std::string, double> MetricValues::By(const std::string& name,
                                               const std::string& label) const {
  std::map<std::string, double> values;
  if (const prometheus::MetricFamily* family = Find(name)) {
    for (const prometheus::ClientMetric& metric : family->metric) {
      for (const auto& [its_label, value] : metric.label) {
        if (its_label == label) values[value] += ValueOf(metric);
      }
    }
  }
  return values;
}

}  // namespace kvship
