// PrefixCache keeps what was computed of the beginnings of prompts, so that a prompt that begins
// alike is read from where it differs. It has blocks of one size, each for kPrefixBlockTokens
// tokens and known by the digest of all tokens up to its end; what a block's bytes mean is its
// user's concern. Belongs to one thread, its blocks included.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/sha256.h"
#include "kv/prefix_digests.h"

namespace kvship {

class PrefixCache {
 public:
  // A block's bytes. shared: with the runs that use it, which keeps it from being given to others
  using Block = std::shared_ptr<std::byte>;
  // Makes memory for one block, which is kept till the end and used again and again.
  using Allocate = std::function<absl::StatusOr<Block>(size_t num_bytes)>;

  // The blocks that a run has of its prompt's beginning, without a gap.
  struct Prefix {
    std::vector<Sha256Digest> digests;  // PrefixDigests of the prompt
    std::vector<Block> blocks;          // of as many of them as there was memory for
    size_t num_found = 0;               // the first: they were there; the others are to be filled
    size_t num_reused = 0;              // of those found the first: what the run need not compute

    size_t reused_tokens() const { return num_reused * kPrefixBlockTokens; }
  };

  // InvalidArgument naming prefix_cache_bytes if that is neither 0 nor room for a block.
  static absl::Status CheckBytes(size_t prefix_cache_bytes, size_t block_bytes);

  // Memory of the host.
  static absl::StatusOr<Block> OnHost(size_t num_bytes);

  // Takes up to max_bytes, as blocks are asked for; with less than block_bytes it is always empty.
  PrefixCache(size_t block_bytes, size_t max_bytes, Allocate allocate = OnHost);
  // Takes all of them now, where that is slow. Errors: those of `allocate`.
  absl::Status TakeMemory();

  // What a prompt finds here, of which at most `most_reused` tokens are to be reused, and blocks
  // for the rest of it: at the cost of the least recently used ones that are in nobody's hands.
  Prefix Begin(std::span<const int32_t> tokens, size_t most_reused);

  // As many tokens as a prompt that begins now would reuse.
  size_t CountReusable(std::span<const int32_t> tokens, size_t most_reused) const;

  // All blocks of the prefix are filled: others may find them.
  void Keep(const Prefix& prefix);

  // Of the blocks that can be found.
  size_t num_bytes() const { return entries_.size() * block_bytes_; }

 private:
  struct Entry {
    Block block;
    uint64_t last_used;
  };
  absl::Status TakeMemoryOfBlock();
  void Find(Prefix* prefix);
  Block Take();
  bool MakeRoom();

  const size_t block_bytes_;
  const size_t max_blocks_;
  const Allocate allocate_;
  size_t num_allocated_ = 0;
  // shared: with the blocks, which come back to it from whoever had them last
  const std::shared_ptr<std::vector<Block>> free_ = std::make_shared<std::vector<Block>>();
  std::map<Sha256Digest, Entry> entries_;
  uint64_t clock_ = 0;  // counts uses
};

}  // namespace kvship
