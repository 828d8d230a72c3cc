// MetricFactory makes a program's metrics in its registry, all under its prefix. A value; what it
// makes lives in the registry.
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

// What the names of a program's metrics begin with: "kvship_decode_" of "kvship-decode".
std::string MetricPrefix(absl::string_view program);

class MetricFactory {
 public:
  // Borrows the registry.
  MetricFactory(prometheus::Registry& registry, absl::string_view program)
      : registry_(registry), prefix_(MetricPrefix(program)) {}

  // `name` is what follows the prefix; `help` is for people.
  prometheus::Counter& Counter(absl::string_view name, const char* help) const;
  prometheus::Gauge& Gauge(absl::string_view name, const char* help) const;
  prometheus::Histogram& Histogram(absl::string_view name, const char* help,
                                   const prometheus::Histogram::BucketBoundaries& bounds) const;

  // One metric for each value of labels.
  prometheus::Family<prometheus::Counter>& Counters(absl::string_view name, const char* help) const;
  prometheus::Family<prometheus::Gauge>& Gauges(absl::string_view name, const char* help) const;
  prometheus::Family<prometheus::Histogram>& Histograms(absl::string_view name,
                                                        const char* help) const;

  // Requests that ended, by gRPC status code. Those codes that alerts watch begin at zero.
  prometheus::Family<prometheus::Counter>& Requests() const;
  // 1; the label names the model that is served.
  prometheus::Family<prometheus::Gauge>& ModelInfo() const;

 private:
  std::string FullName(absl::string_view name) const;

  prometheus::Registry& registry_;
  const std::string prefix_;
};

// A counter that appears with its first event has, to Prometheus, never increased: one per code is
// there from now on.
void BeginAtZero(prometheus::Family<prometheus::Counter>& family,
                 std::initializer_list<absl::StatusCode> codes);

// Of shares of attention that kept tokens retain: most of what matters happens close to 1.
prometheus::Histogram::BucketBoundaries RetainedMassBounds();

}  // namespace kvship
