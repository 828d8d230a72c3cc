// Digests of token blocks, which identify shared prompt prefixes. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/sha256.h"

namespace kvship {

// Tokens per block: few, so that little is read twice; enough that a block is one large copy per
// head.
inline constexpr size_t kPrefixBlockTokens = 256;

// The longest cache salt.
inline constexpr size_t kMostCacheSaltBytes = 256;

// One digest per whole block of `tokens`: SHA-256 over the previous block's digest, if any, and the
// block's ids as int32. A digest thus identifies all tokens up to its block's end. Before the first
// block, `cache_salt`'s SHA-256 stands for the previous digest, unless it is empty: prompts with
// different salts share no digests.
std::vector<Sha256Digest> PrefixDigests(std::span<const int32_t> tokens,
                                        absl::string_view cache_salt = {});

}  // namespace kvship
