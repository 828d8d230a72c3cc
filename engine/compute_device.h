// ComputeDevice names what a process computes on. Plain data.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

struct ComputeDevice {
  bool is_gpu = false;  // else the CPU
  int ordinal = 0;      // of the GPU among those of the machine
};

// Reads "cpu", "cuda" (the first GPU) or "cuda:N". InvalidArgument naming --device otherwise.
absl::StatusOr<ComputeDevice> ParseComputeDevice(absl::string_view text);

}  // namespace kvship
