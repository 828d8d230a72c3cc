// NodeMetrics are what a node can tell of itself only when it is asked: whether it is ready or
// on its way out, how long the certificate that it uses is good for, and whether what it uses of
// its TLS files and tokens is what these hold. Names begin with the program's, as
// kvship_decode_ready. Thread safe.
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
  // `program` as "kvship-decode". `tokens` may be null: none are wanted. Borrows both.
  NodeMetrics(const std::string& program, const Readiness& readiness, ApiTokens* tokens);

  // Of TLS where credentials have been made (rpc/tls.h).
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::string prefix_;
  const Readiness& readiness_;
  ApiTokens* const tokens_;  // may be null
};

}  // namespace kvship
