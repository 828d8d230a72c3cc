// What a prefill node tells of itself in /status.json; docs/status.md lists the fields. Pure.
#pragma once

#include <nlohmann/json.hpp>

#include "kvship/v1/types.pb.h"
#include "prefill_service/prefill_scheduler.h"
#include "service/metric_values.h"

namespace kvship {

nlohmann::ordered_json PrefillStatusJson(const v1::ModelInfo& model, const MetricValues& metrics,
                                         const PrefillScheduler& scheduler);

}  // namespace kvship
