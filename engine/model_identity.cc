#include "engine/model_identity.h"

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
  const auto tokenizer = Tokenizer::Load(path);
  if (!tokenizer.ok() && !absl::IsNotFound(tokenizer.status())) return tokenizer.status();
  return CombinedIdentity(transformer.identity,
                          tokenizer.ok() ? (*tokenizer)->identity() : Sha256Digest{});
}

}  // namespace kvship
