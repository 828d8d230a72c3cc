// The results of a load run: exact percentiles over all requests and tokens, errors by code, bytes,
// and goodput (requests that met their latency targets). Pure functions.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/load_run.h"

namespace kvship {

// The latencies that a good request meets; an infinite target is always met.
struct LatencyTargets {
  absl::Duration first_token = absl::InfiniteDuration();
  absl::Duration between_tokens = absl::InfiniteDuration();  // mean per request
};

struct LoadReport {
  // Milliseconds, ascending.
  std::vector<double> first_token_ms, between_tokens_ms, total_ms;
  size_t num_requests = 0;
  size_t num_good = 0;
  std::map<std::string, size_t> errors;  // by status code
  std::string last_error;
  double seconds = 0;
  size_t prompt_tokens = 0, reused_tokens = 0, output_tokens = 0;
  size_t uncompressed_bytes = 0, shipped_bytes = 0;
};

LoadReport MakeLoadReport(const std::vector<LoadRequestResult>& results,
                          const LatencyTargets& targets, absl::Duration duration);

// The value that `share` of the ascending values do not exceed (nearest rank); 0 if there are none.
double Percentile(const std::vector<double>& ascending, double share);

std::string LoadReportText(const LoadReport& report);
nlohmann::ordered_json LoadReportJson(const LoadReport& report);

}  // namespace kvship
