// Ranges in which a program's options must lie. Each check gives InvalidArgument that names the
// field, its value and what was wanted. Pure functions.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvship {

// 1 to `most`.
absl::Status CheckPositive(absl::string_view field, size_t value,
                           size_t most = std::numeric_limits<size_t>::max());

absl::Status CheckPositive(absl::string_view field, absl::Duration value);
absl::Status CheckNotNegative(absl::string_view field, absl::Duration value);

// Threads that compute: 0, which is one per processor, to 1024.
absl::Status CheckThreads(absl::string_view field, size_t value);

// Flags that both programs have: a model is named, and float32 is asked of the CPU alone. Their
// messages begin with the flag.
absl::Status CheckModelFlags(absl::string_view model, bool float32, bool has_gpu);

// Of checks whose fields are flags' names: OK, or the first that is not, with "--" before its
// field.
absl::Status FirstWrongFlag(std::initializer_list<absl::Status> checks);

// `status` of what `flag`, "--name", gave; its message begins with the flag.
absl::Status OfFlag(absl::string_view flag, const absl::Status& status);

}  // namespace kvship
