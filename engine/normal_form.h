// Unicode's normalization form C, in which one text is always written the same: "e" with an accent
// behind it becomes "é". Source: Unicode Standard Annex #15.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace kvship {

// Of valid UTF-8. The time grows as n log n.
std::string NormalFormC(absl::string_view text);

}  // namespace kvship
