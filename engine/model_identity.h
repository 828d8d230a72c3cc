// Digests that nodes compare to check that they serve the same model. Pure functions, except that
// ModelIdentity reads a file.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/sha256.h"
#include "engine/transformer.h"

namespace kvship {

// SHA-256 over the identities of Transformer and Tokenizer, in that order; 32 zero bytes stand for
// a missing tokenizer.
Sha256Digest CombinedIdentity(const Sha256Digest& transformer, const Sha256Digest& tokenizer);

// The combined identity of the model at `path`, whose weights are loaded. Errors: as
// Tokenizer::Load, except that a missing tokenizer is no error.
absl::StatusOr<Sha256Digest> ModelIdentity(const Transformer& transformer, const std::string& path);

}  // namespace kvship
