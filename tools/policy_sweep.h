// Answers to one prompt under many compressions for the price of one prefill: how settings are
// searched before the best of them are measured through the services.
#pragma once

#include <iosfwd>

#include "absl/status/status.h"
#include "engine/tokenizer.h"
#include "tools/local_run.h"

namespace kvship {

// Reads cases, one JSON object a line, and writes a line for each as soon as it is done:
//
//   {"tokens": [...], "max_tokens": 24, "compressions": ["scorer=snapkv,budget_tokens=256", ...]}
//   {"answers": [{"text": "...", "num_bytes": 1, "kept_tokens": 256.0, "retained_mass": 0.8,
//                 "compress_seconds": 0.03}, ...], "prefill_seconds": 1.2}
//
// Output is greedy and ends at an end token. InvalidArgument naming line and field.
absl::Status SweepPolicies(LocalRun& run, const Tokenizer& tokenizer, std::istream& cases,
                           std::ostream& out);

}  // namespace kvship
