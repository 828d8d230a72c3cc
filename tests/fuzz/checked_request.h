// What must hold of every GenerateRequest that the decode node takes: it fits the model, and the
// prefill node takes what is made of it.
#pragma once

#include "kvship/v1/generation.pb.h"

namespace kvship {

void CheckGenerateRequest(const v1::GenerateRequest& message);

}  // namespace kvship
