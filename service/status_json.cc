#include "service/status_json.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace kvship {

using Json = nlohmann::ordered_json;

Json RequestsByCode(const MetricValues& metrics, const std::string& name) {
  Json requests = Json::object();
  for (const auto& [code, count] : metrics.By(name, "code")) {
    requests[code] = static_cast<uint64_t>(count);
  }
  return requests;
}

Json CompressionStatus(double uncompressed_bytes, double shipped_bytes) {
  return {{"uncompressed_bytes", static_cast<uint64_t>(uncompressed_bytes)},
          {"shipped_bytes", static_cast<uint64_t>(shipped_bytes)},
          {"saved_bytes", static_cast<uint64_t>(std::max(0.0, uncompressed_bytes - shipped_bytes))},
          {"ratio", shipped_bytes > 0 ? Json(uncompressed_bytes / shipped_bytes) : Json()}};
}

double RoundedShare(double share) { return std::round(share * 1e4) / 1e4; }

}  // namespace kvship
