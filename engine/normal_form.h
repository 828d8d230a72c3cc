// Unicode normalization form C, which gives equivalent texts one spelling: "e" followed by an
// accent becomes "é". Source: Unicode Standard Annex #15.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace kvship {

// `text` must be valid UTF-8. Takes O(n log n) time.
std::string NormalFormC(absl::string_view text);

}  // namespace kvship
