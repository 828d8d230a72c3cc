// Generates answers to one prompt under many compressions for the price of one prefill, to search
// settings before the best of them are measured through the services.
#pragma once

#include <iosfwd>

#include "absl/status/status.h"
#include "engine/chat_template.h"
#include "engine/tokenizer.h"
#include "tools/local_run.h"

namespace kvship {

// Reads cases, one JSON object a line, and writes a line for each as soon as it is done:
//
//   {"message": "...", "max_tokens": 24, "compressions": ["scorer=snapkv,budget_tokens=256", ...]}
//   {"answers": [{"text": "...", "num_bytes": 1, "kept_tokens": 256.0, "retained_mass": 0.8,
//                 "compress_seconds": 0.03}, ...], "prompt_tokens": 1024, "prefill_seconds": 1.2}
//
// `message` is a user's, rendered with the model's chat template; "tokens", a list of ids, may
// stand in its place. With "oracle_tokens": 128 an answer also has "recall" and "middle_recall",
// one number per layer, against what up to 128 tokens generated with the full cache attend to
// (tools/oracle_recall.h); null where no head kept a token. Output is greedy and ends at an end
// token. InvalidArgument naming line and field, or if there is no line.
absl::Status SweepPolicies(LocalRun& run, const Tokenizer& tokenizer,
                           const ChatTemplate& chat_template, std::istream& cases,
                           std::ostream& out);

}  // namespace kvship
