// What a server tells about its model, and whether two servers run the same one. Pure functions.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/sha256.h"
#include "engine/model_config.h"
#include "kvship/v1/types.pb.h"

namespace kvship {

// `context_tokens`: as many as a request's prompt and output may have together. Leaves
// default_compression unset.
v1::ModelInfo ModelInfoToProto(const ModelConfig& config, const Sha256Digest& combined_identity,
                               size_t context_tokens);

// `theirs` as it came over the wire. FailedPrecondition with reason MODEL_MISMATCH if it differs.
absl::Status CheckModelIdentity(const std::string& theirs, const Sha256Digest& ours);

}  // namespace kvship
