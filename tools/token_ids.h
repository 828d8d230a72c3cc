// Token ids as people and programs write them: a JSON list. A pure function.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

// Returns the ids of a JSON list; which of them a model has is left to LocalRun. InvalidArgument
// naming `field` if it is no list, has no id, or holds anything but integers from 0 to 2^31 - 1.
absl::StatusOr<std::vector<int32_t>> TokenIds(absl::string_view field, const nlohmann::json& ids);

}  // namespace kvship
