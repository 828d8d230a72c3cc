// Text and token ids at the RPC edge: what Tokenize and Detokenize answer. Pure functions.
//
// Errors: FailedPrecondition where the model has no tokenizer; InvalidArgument with a BadRequest
// detail that names the field.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "decode_service/served_model.h"
#include "engine/tokenizer.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

// The ids of `field`. InvalidArgument, with the index, for one outside the model's vocabulary.
absl::StatusOr<std::vector<int32_t>> TokenIds(absl::string_view field,
                                              const google::protobuf::RepeatedField<uint32_t>& ids,
                                              const ServedModel& model);

// The ids of the text of `field`, by a model that has a tokenizer, as its Encode gives them.
// FailedPrecondition for a text too long for any prompt, before any work; InvalidArgument for one
// that is not UTF-8.
absl::StatusOr<std::vector<int32_t>> TextIds(absl::string_view field, absl::string_view text,
                                             std::span<const TextRange> plain,
                                             const ServedModel& model);

absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request,
                                              const ServedModel& model);
absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request,
                                                  const ServedModel& model);

}  // namespace kvship
