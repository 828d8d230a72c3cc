// NodeMetrics exports what a node computes only when scraped: whether it is ready or draining, how
// long its certificate is valid, and whether the TLS files and tokens in use are current. Names
// begin with the program's, as kvship_decode_ready. Thread safe.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <string>
#include <vector>

#include "service/api_tokens.h"
#include "service/readiness.h"

namespace kvship {

class NodeMetrics final : public prometheus::Collectable {
 public:
  // `program`: for example "kvship-decode". `tokens` may be null: none are required. Borrows both.
  NodeMetrics(const std::string& program, const Readiness& readiness, ApiTokens* tokens);

  // Includes TLS if credentials were created (rpc/tls.h).
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::string prefix_;
  const Readiness& readiness_;
  ApiTokens* const tokens_;  // may be null
};

}  // namespace kvship
