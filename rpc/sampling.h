// Sampling options and output tokens between their protobuf and plain forms. Pure functions.
#pragma once

#include "absl/status/statusor.h"
#include "engine/sampling.h"
#include "kvship/v1/types.pb.h"

namespace kvship {

// `defaults` overlaid with the fields that are set, validated. Errors: InvalidArgument with a
// BadRequest detail "sampling".
absl::StatusOr<SamplingOptions> SamplingFromProto(const v1::SamplingOptions& message,
                                                  const SamplingOptions& defaults = {});

// Every field set.
v1::SamplingOptions SamplingToProto(const SamplingOptions& options);

OutputToken OutputTokenFromProto(const v1::OutputToken& message);
v1::OutputToken OutputTokenToProto(const OutputToken& token);

// InvalidArgument with a BadRequest detail "logprobs" for more than kMostLogprobs.
absl::Status CheckLogprobs(uint32_t logprobs);

}  // namespace kvship
