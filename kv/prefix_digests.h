// How the beginnings of prompts are known again: by digests of their whole blocks of tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/sha256.h"

namespace kvship {

// Tokens of a block: few enough that little is read twice, enough that a block is one large copy a
// head.
inline constexpr size_t kPrefixBlockTokens = 256;

// Of each whole block that `tokens` begin with: SHA-256 over the digest of the block before it, if
// there is one, and the block's ids as int32. So a digest stands for all tokens up to its block's
// end.
std::vector<Sha256Digest> PrefixDigests(std::span<const int32_t> tokens);

}  // namespace kvship
