// What tests ask of nodes with a tiny golden model, where the tokens themselves do not matter.
#pragma once

#include <string>

#include "kvship/v1/generation.pb.h"

namespace kvship {

// A request of random ids of the tiny golden models' vocabulary, kept whole, in f16, whose output
// does not end before max_tokens.
v1::GenerateRequest TinyRequest(size_t prompt_tokens, uint32_t max_tokens);
// The same as the body of a request to /v1/completions, where --served_model_name=`model`.
std::string TinyHttpBody(size_t prompt_tokens, uint32_t max_tokens, bool stream,
                         const std::string& model = "tiny");

}  // namespace kvship
