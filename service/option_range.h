// Ranges in which a program's options must lie. Each check gives InvalidArgument that names the
// field, its value and what was wanted. Pure functions.
#pragma once

#include <cstddef>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvship {

// 1 to `most`.
absl::Status CheckPositive(absl::string_view field, size_t value,
                           size_t most = std::numeric_limits<size_t>::max());

absl::Status CheckPositive(absl::string_view field, absl::Duration value);

}  // namespace kvship
