// What nodes compare to know that they serve the same model. Pure functions, but for the file that
// ModelIdentity reads.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/sha256.h"
#include "engine/transformer.h"

namespace kvship {

// SHA-256 over the identities of Transformer and Tokenizer, in that order; a model without a
// tokenizer has 32 zero bytes for it.
Sha256Digest CombinedIdentity(const Sha256Digest& transformer, const Sha256Digest& tokenizer);

// The combined identity of the model at `path`, whose weights are loaded. Errors: as
// Tokenizer::Load, but for a model that has no tokenizer.
absl::StatusOr<Sha256Digest> ModelIdentity(const Transformer& transformer, const std::string& path);

}  // namespace kvship
