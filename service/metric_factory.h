// MetricFactory creates a program's metrics in its registry, all with its prefix. A value; the
// registry owns what it creates.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <initializer_list>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kvship {

// The prefix of a program's metrics: "kvship_decode_" for "kvship-decode".
std::string MetricPrefix(absl::string_view program);

class MetricFactory {
 public:
  // Borrows the registry.
  MetricFactory(prometheus::Registry& registry, absl::string_view program)
      : registry_(registry), prefix_(MetricPrefix(program)) {}

  // `name` is the name without the prefix; `help` is for people.
  prometheus::Counter& Counter(absl::string_view name, const char* help) const;
  prometheus::Gauge& Gauge(absl::string_view name, const char* help) const;
  prometheus::Histogram& Histogram(absl::string_view name, const char* help,
                                   const prometheus::Histogram::BucketBoundaries& bounds) const;

  // One metric for each set of label values.
  prometheus::Family<prometheus::Counter>& Counters(absl::string_view name, const char* help) const;
  prometheus::Family<prometheus::Gauge>& Gauges(absl::string_view name, const char* help) const;
  prometheus::Family<prometheus::Histogram>& Histograms(absl::string_view name,
                                                        const char* help) const;

  // Ended requests by gRPC status code. Codes that alerts watch start at zero.
  prometheus::Family<prometheus::Counter>& Requests() const;
  // Constant 1; the label names the served model.
  prometheus::Family<prometheus::Gauge>& ModelInfo() const;

 private:
  std::string FullName(absl::string_view name) const;

  prometheus::Registry& registry_;
  const std::string prefix_;
};

// Creates one counter per code at zero: to Prometheus, a counter that first appears with its first
// event has never increased.
void BeginAtZero(prometheus::Family<prometheus::Counter>& family,
                 std::initializer_list<absl::StatusCode> codes);

// Bucket bounds for shares of retained attention: most that matters happens close to 1.
prometheus::Histogram::BucketBoundaries RetainedMassBounds();

}  // namespace kvship
