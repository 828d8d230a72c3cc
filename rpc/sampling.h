// Converts sampling options and output tokens between protobuf and plain structs. Pure functions.
#pragma once

#include "absl/status/statusor.h"
#include "engine/sampling.h"
#include "kvship/v1/types.pb.h"

namespace kvship {

// Unset fields get the struct's defaults. Errors: InvalidArgument with a BadRequest detail
// "sampling", or "sampling.logit_bias" for a token outside the vocabulary.
absl::StatusOr<SamplingOptions> SamplingFromProto(const v1::SamplingOptions& message,
                                                  size_t vocab_tokens);

// Sets every field.
v1::SamplingOptions SamplingToProto(const SamplingOptions& options);

OutputToken OutputTokenFromProto(const v1::OutputToken& message);
v1::OutputToken OutputTokenToProto(const OutputToken& token);

// InvalidArgument with a BadRequest detail "logprobs" for more than kMostLogprobs.
absl::Status CheckLogprobs(uint32_t logprobs);

}  // namespace kvship
