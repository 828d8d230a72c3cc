// GenerationRequest is a Generate call's request after the RPC edge: everything checked, defaults
// filled in, text turned into tokens, and the plan of the prompt's cache. What lies behind it
// trusts it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "decode_service/served_model.h"
#include "decode_service/session.h"
#include "kv/compression_options.h"
#include "kv/plan.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

struct RequestLimits {
  size_t default_max_tokens = 256;  // output tokens where the request says nothing
  // The longest prompt plus output; 0: what the model was made for.
  size_t context_tokens = 0;
  CompressionOptions default_compression = {};
  // Prompt tokens that a request may keep per KV head, the mean over layers; 0: any number.
  size_t max_kept_tokens = 0;

  // The tokens that prompt and output may have together.
  size_t ContextOf(const ModelConfig& model) const;
};

struct GenerationRequest {
  std::string request_id;
  std::vector<int32_t> tokens;
  CompressionOptions compression;
  KvPlan plan;
  OutputOptions output;
  std::string structure;             // that the output is held to (output_structure.h); empty: none
  std::string structure_field = {};  // of the request, that it comes from
  TokenMask first_token_mask = {};   // by `structure`, once it has been compiled, or by min_tokens
  bool report_heads = false;

  // Output tokens but the last one need a place in the cache.
  size_t max_tail_tokens() const { return output.max_tokens - 1; }
};

// Errors name field, value and what was wanted. InvalidArgument with a BadRequest detail for a
// wrong field; FailedPrecondition for what this model cannot serve: a prompt (and output) longer
// than its context, or text without a tokenizer.
absl::StatusOr<GenerationRequest> ReadRequest(const v1::GenerateRequest& message,
                                              const ServedModel& model,
                                              const RequestLimits& limits);

}  // namespace kvship
