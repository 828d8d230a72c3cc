// Makes a decode node's part of /status.json; docs/status.md lists the fields. A pure function.
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
