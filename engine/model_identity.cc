#include "engine/model_identity.h"

#include "base/status_macros.h"
#include "engine/tokenizer.h"

namespace kvship {

Sha256Digest CombinedIdentity(const Sha256Digest& transformer, const Sha256Digest& tokenizer) {
  Sha256 sha;
  sha.Update(transformer);
  sha.Update(tokenizer);
  return sha.Finish();
}

absl::StatusOr<Sha256Digest> ModelIdentity(const Transformer& transformer,
                                           const std::string& path) {
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::LoadIfPresent(path));
  return CombinedIdentity(transformer.identity,
                          tokenizer != nullptr ? tokenizer->identity() : Sha256Digest{});
}

}  // namespace kvship
