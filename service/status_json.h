// Makes the parts of /status.json common to both programs; docs/status.md lists the fields. Pure
// functions.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "service/metric_values.h"

namespace kvship {

// Ended requests: {"OK": 12, ...} of the counter `name`, by its label `code`.
nlohmann::ordered_json RequestsByCode(const MetricValues& metrics, const std::string& name);

// {"uncompressed_bytes", "shipped_bytes", "saved_bytes", "ratio"}; the ratio is null if nothing was
// shipped.
nlohmann::ordered_json CompressionStatus(double uncompressed_bytes, double shipped_bytes);

// Rounds a share to four decimals for display.
double RoundedShare(double share);

}  // namespace kvship
