#include "engine/compute_device.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace kvship {

absl::StatusOr<ComputeDevice> ParseComputeDevice(absl::string_view text) {
  if (text == "cpu") return ComputeDevice();
  if (text == "cuda") return ComputeDevice{.is_gpu = true, .ordinal = 0};
  absl::string_view number = text;
  int ordinal = 0;
  if (absl::ConsumePrefix(&number, "cuda:") && absl::SimpleAtoi(number, &ordinal) &&
      std::all_of(number.begin(), number.end(), absl::ascii_isdigit)) {
    return ComputeDevice{.is_gpu = true, .ordinal = ordinal};
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--device is '", text, "'; wanted cpu, cuda or cuda:N"));
}

}  // namespace kvship
