// Makes a prefill node's part of /status.json; docs/status.md lists the fields. A pure function.
#pragma once

#include <nlohmann/json.hpp>

#include "kvship/v1/types.pb.h"
#include "prefill_service/prefill_scheduler.h"
#include "service/metric_values.h"

namespace kvship {

nlohmann::ordered_json PrefillStatusJson(const v1::ModelInfo& model, const MetricValues& metrics,
                                         const PrefillScheduler& scheduler);

}  // namespace kvship
