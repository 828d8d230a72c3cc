#include "service/option_range.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace kvship {

absl::Status CheckPositive(absl::string_view field, size_t value, size_t most) {
  if (value >= 1 && value <= most) return absl::OkStatus();
  const std::string wanted =
      most == std::numeric_limits<size_t>::max() ? "at least 1" : absl::StrCat("1 to ", most);
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; wanted ", wanted));
}

absl::Status CheckPositive(absl::string_view field, absl::Duration value) {
  if (value > absl::ZeroDuration()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", absl::FormatDuration(value), "; wanted more than 0"));
}

}  // namespace kvship
