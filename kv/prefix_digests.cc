#include "kv/prefix_digests.h"

namespace kvship {

// Otherwise a salt could be made whose digest is that of somebody's block.
static_assert(kMostCacheSaltBytes < kPrefixBlockTokens * sizeof(int32_t));

std::vector<Sha256Digest> PrefixDigests(std::span<const int32_t> tokens,
                                        absl::string_view cache_salt) {
  std::vector<Sha256Digest> digests;
  digests.reserve(tokens.size() / kPrefixBlockTokens);
  for (size_t end = kPrefixBlockTokens; end <= tokens.size(); end += kPrefixBlockTokens) {
    Sha256 hash;
    if (!digests.empty()) {
      hash.Update(digests.back());
    } else if (!cache_salt.empty()) {
      Sha256 salt_hash;
      salt_hash.Update(std::as_bytes(std::span(cache_salt.data(), cache_salt.size())));
      hash.Update(salt_hash.Finish());
    }
    hash.Update(std::as_bytes(tokens.subspan(end - kPrefixBlockTokens, kPrefixBlockTokens)));
    digests.push_back(hash.Finish());
  }
  return digests;
}

}  // namespace kvship
