// PrefillTask is one validated request on the prefill node: all fields of Begin, checked once at
// the RPC edge. Plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/sha256.h"
#include "engine/sampling.h"
#include "engine/transformer.h"
#include "kv/compression_options.h"
#include "kv/plan.h"
#include "kvship/v1/prefill.pb.h"
#include "prefill_service/prefill_trace.h"

namespace kvship {

struct PrefillTask {
  std::string request_id;  // for the log; may be empty
  PrefillTrace trace;      // of its call
  std::vector<int32_t> tokens;
  std::string cache_salt;  // may be empty
  CompressionOptions compression;
  KvPlan plan;
  SamplingOptions sampling;
  size_t num_logprobs = 0;
  std::optional<int32_t> forced_token;
  TokenMask allowed_tokens;  // for the first output token
  bool offers_nccl = false;  // among the transports offered to the client
};

// Checks all of Begin. `identity` is the combined one of rpc/model_info.h.
//
// Errors: FailedPrecondition with a reason if wire version, model or plan differ; InvalidArgument
// naming the field for everything else.
absl::StatusOr<PrefillTask> ReadBegin(const v1::PrefillBegin& begin, const ModelConfig& model,
                                      const Sha256Digest& identity);

}  // namespace kvship
