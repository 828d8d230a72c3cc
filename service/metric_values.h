// MetricValues is a snapshot of a registry's metrics, by name. A value.
#pragma once

#include <prometheus/registry.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace kvship {

class MetricValues {
 public:
  explicit MetricValues(const prometheus::Registry& registry) : families_(registry.Collect()) {}

  // The sum over all labels, of a histogram that of all it observed; 0 for a name without any yet.
  double Sum(const std::string& name) const;
  // The number of observations of the histogram `name`.
  uint64_t Observations(const std::string& name) const;
  // The values by the value of `label`.
  std::map<std::string, double> By(const std::string& name, const std::string& label) const;

 private:
  const prometheus::MetricFamily* Find(const std::string& name) const;

  const std::vector<prometheus::MetricFamily> families_;
};

}  // namespace kvship
