// Unicode's normalization form C, in which one text is always written the same: "e" with an accent
// behind it becomes "é". Source: Unicode Standard Annex #15.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

// Of valid UTF-8. InvalidArgument for more than 256 combining marks in a row: putting them in order
// takes the square of their number. ResourceExhausted if there is no memory for it.
absl::StatusOr<std::string> NormalFormC(absl::string_view text);

}  // namespace kvship
