#include "service/option_range.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace kvship {
namespace {

// More than any machine's processors; far more would run one after the other.
constexpr size_t kMostThreads = 1024;

}  // namespace

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

absl::Status CheckNotNegative(absl::string_view field, absl::Duration value) {
  if (value >= absl::ZeroDuration()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", absl::FormatDuration(value), "; wanted 0 or more"));
}

absl::Status CheckThreads(absl::string_view field, size_t value) {
  if (value <= kMostThreads) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, "; wanted 0, one per processor, to ", kMostThreads));
}

absl::Status CheckModelFlags(absl::string_view model, bool float32, bool has_gpu) {
  if (model.empty()) {
    return absl::InvalidArgumentError(
        "--model is not set; wanted a GGUF file or a model directory");
  }
  if (float32 && has_gpu) {
    return absl::InvalidArgumentError("--float32 is set; wanted it with --device=cpu alone");
  }
  return absl::OkStatus();
}

absl::Status FirstWrongFlag(std::initializer_list<absl::Status> checks) {
  for (const absl::Status& check : checks) {
    if (!check.ok()) return absl::InvalidArgumentError(absl::StrCat("--", check.message()));
  }
  return absl::OkStatus();
}

absl::Status OfFlag(absl::string_view flag, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(flag, ": ", status.message()));
}

}  // namespace kvship
