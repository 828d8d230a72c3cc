#include "kv/prefix_digests.h"

namespace kvship {

std::vector<Sha256Digest> PrefixDigests(std::span<const int32_t> tokens) {
  std::vector<Sha256Digest> digests;
  digests.reserve(tokens.size() / kPrefixBlockTokens);
  for (size_t end = kPrefixBlockTokens; end <= tokens.size(); end += kPrefixBlockTokens) {
    Sha256 hash;
    if (!digests.empty()) hash.Update(digests.back());
    hash.Update(std::as_bytes(tokens.subspan(end - kPrefixBlockTokens, kPrefixBlockTokens)));
    digests.push_back(hash.Finish());
  }
  return digests;
}

}  // namespace kvship
