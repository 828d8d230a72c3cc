// Range checks of a program's options. Each returns InvalidArgument naming the field, its value and
// what was wanted. Pure functions.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvship {

// Wants 1 to `most`.
absl::Status CheckPositive(absl::string_view field, size_t value,
                           size_t most = std::numeric_limits<size_t>::max());

absl::Status CheckPositive(absl::string_view field, absl::Duration value);
absl::Status CheckNotNegative(absl::string_view field, absl::Duration value);

// Wants a number of compute threads: 0 (one per processor) to 1024.
absl::Status CheckThreads(absl::string_view field, size_t value);

// Checks flags common to both programs: a model is named, and float32 is used on the CPU only.
// Messages begin with the flag.
absl::Status CheckModelFlags(absl::string_view model, bool float32, bool has_gpu);

// Combines checks whose fields are flag names: returns the first error, with "--" before its field,
// or OK.
absl::Status FirstWrongFlag(std::initializer_list<absl::Status> checks);

// Returns `status` with `flag`, "--name", before its message.
absl::Status OfFlag(absl::string_view flag, const absl::Status& status);

}  // namespace kvship
