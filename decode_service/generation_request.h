// GenerationRequest is a validated Generate request: fields checked, defaults filled in, text
// tokenized, the plan of the prompt's cache computed. Code behind the RPC edge trusts it. Plain
// data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "decode_service/served_model.h"
#include "decode_service/session.h"
#include "engine/tool_call_reader.h"
#include "kv/compression_options.h"
#include "kv/layer_needs.h"
#include "kv/plan.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

struct RequestLimits {
  size_t default_max_tokens = 256;  // output tokens if the request sets no limit
  // The maximum of prompt plus output tokens; 0: the model's own.
  size_t context_tokens = 0;
  CompressionOptions default_compression = {};
  // The most prompt tokens a request may keep per KV head, averaged over layers; 0: unlimited.
  size_t max_kept_tokens = 0;

  // The maximum of prompt plus output tokens with this model.
  size_t ContextOf(const ModelConfig& model) const;
};

struct GenerationRequest {
  std::string request_id;
  std::vector<int32_t> tokens;
  std::string cache_salt = {};  // may be empty
  CompressionOptions compression;
  KvPlan plan;
  OutputOptions output;
  std::string structure;  // constrains the output (grammar/output_structure.h); empty: none
  std::string structure_field = {};  // the request's field it comes from
  TokenMask first_token_mask = {};   // by `structure`, once compiled, or by min_tokens
  bool report_heads = false;

  // All output tokens but the last need a place in the cache.
  size_t max_tail_tokens() const { return output.max_tokens - 1; }
  // Tokens at the prompt's beginning that its compression lets a prefill node take from its cache.
  size_t most_reused() const { return MostReused(tokens.size(), NeedsOf(compression, plan)); }
};

// Returns the reader that finds the calls of tools in a chat's output, none if it has no tools.
// `has_schema`: the output may be JSON of a schema.
ToolCallReader CallsIn(const v1::ChatMessages& chat, bool has_schema, const ServedModel& model);

// Validates a request. Errors name field, value and what was wanted: InvalidArgument with a
// BadRequest detail for a wrong field; FailedPrecondition for what this model cannot serve (prompt
// plus output longer than its context, or text without a tokenizer).
absl::StatusOr<GenerationRequest> ReadRequest(const v1::GenerateRequest& message,
                                              const ServedModel& model,
                                              const RequestLimits& limits);

}  // namespace kvship
