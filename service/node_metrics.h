// NodeMetrics are what a node can tell of itself only when it is asked: whether it is ready or
// on its way out, and how long its certificate is good for. Names begin with the program's, as
// kvship_decode_ready. Thread safe.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <string>
#include <vector>

#include "service/readiness.h"

namespace kvship {

class NodeMetrics final : public prometheus::Collectable {
 public:
  // `program` as "kvship-decode". `certificate`: a PEM file, read whenever the metrics are; empty:
  // none. Borrows readiness.
  NodeMetrics(const std::string& program, const Readiness& readiness, std::string certificate);

  // Of a certificate that cannot be read nothing but that is told.
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::string prefix_;
  const Readiness& readiness_;
  const std::string certificate_;
};

}  // namespace kvship
