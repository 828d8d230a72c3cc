// What a decode node tells of itself in /status.json; docs/status.md lists the fields. Pure.
#pragma once

#include <nlohmann/json.hpp>

#include "decode_service/prefill_nodes.h"
#include "decode_service/recent_requests.h"
#include "kvship/v1/types.pb.h"
#include "service/metric_values.h"

namespace kvship {

nlohmann::ordered_json DecodeStatusJson(const v1::ModelInfo& model, const MetricValues& metrics,
                                        const PrefillNodes& nodes, const RecentRequests& recent);

}  // namespace kvship
