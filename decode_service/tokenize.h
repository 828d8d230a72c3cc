// Converts between text and token ids at the RPC edge, for Tokenize, Detokenize and prompts. Pure
// functions.
//
// Errors: FailedPrecondition if the model has no tokenizer; InvalidArgument with a BadRequest
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

// Returns `field`'s ids. InvalidArgument, with the index, for an id outside the model's vocabulary.
absl::StatusOr<std::vector<int32_t>> TokenIds(absl::string_view field,
                                              const google::protobuf::RepeatedField<uint32_t>& ids,
                                              const ServedModel& model);

// FailedPrecondition if a text of `num_bytes` in `field` is too long for any prompt.
absl::Status CheckTextBytes(absl::string_view field, size_t num_bytes, const ServedModel& model);

// Tokenizes the text of `field`, as the tokenizer's Encode does; the model must have one.
// FailedPrecondition, before any work, for a text too long for any prompt; InvalidArgument for one
// that is not UTF-8.
absl::StatusOr<std::vector<int32_t>> TextIds(absl::string_view field, absl::string_view text,
                                             std::span<const TextRange> plain,
                                             const ServedModel& model);

absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request,
                                              const ServedModel& model);
absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request,
                                                  const ServedModel& model);

}  // namespace kvship
