// PrefixCache caches what was computed for prompt prefixes, so that a prompt with the same prefix
// is computed only from where it differs. It has blocks of one size, each for kPrefixBlockTokens
// tokens and keyed by the digest of all tokens up to its end and of the prompt's cache salt. Its
// user defines what a block's bytes mean. Belongs to one thread, its blocks included.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/sha256.h"
#include "kv/prefix_digests.h"

namespace kvship {

class PrefixCache {
 public:
  // A block's bytes. shared: with the runs that use it, which protects it from eviction
  using Block = std::shared_ptr<std::byte>;
  // Allocates one block, which is kept until the end and reused.
  using Allocate = std::function<absl::StatusOr<Block>(size_t num_bytes)>;

  // The blocks that a run holds for its prompt's prefix, without a gap.
  struct Prefix {
    std::vector<Sha256Digest> digests;  // PrefixDigests of the prompt
    std::vector<Block> blocks;          // for the first of them, as many as memory allows
    size_t num_found = 0;               // leading hits; the run fills the blocks after them
    size_t num_reused = 0;              // leading hits that the run need not compute

    size_t reused_tokens() const { return num_reused * kPrefixBlockTokens; }
  };

  // InvalidArgument naming prefix_cache_bytes if it is neither 0 nor enough for one block.
  static absl::Status CheckBytes(size_t prefix_cache_bytes, size_t block_bytes);

  // Allocates a block in host memory.
  static absl::StatusOr<Block> OnHost(size_t num_bytes);

  // Allocates up to max_bytes, on demand; with less than block_bytes the cache is always empty.
  PrefixCache(size_t block_bytes, size_t max_bytes, Allocate allocate = OnHost);
  // Allocates all blocks now, for memory that is slow to allocate. Errors: those of `allocate`.
  absl::Status TakeMemory();

  // Finds a prompt's prefix among those with the same salt, of which at most `most_reused` tokens
  // are to be reused, and takes blocks for the rest of the prompt. May evict the least recently
  // used blocks that no run holds.
  Prefix Begin(std::span<const int32_t> tokens, absl::string_view cache_salt, size_t most_reused);

  // The number of tokens that a prompt would reuse if it began now.
  size_t CountReusable(std::span<const int32_t> tokens, absl::string_view cache_salt,
                       size_t most_reused) const;

  // Makes the prefix's blocks available to other prompts. All of them must be filled.
  void Keep(const Prefix& prefix);

  // Bytes of the blocks that can be found.
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
  // shared: with the blocks, whose last owner returns them here
  const std::shared_ptr<std::vector<Block>> free_ = std::make_shared<std::vector<Block>>();
  std::map<Sha256Digest, Entry> entries_;
  uint64_t clock_ = 0;  // counts uses
};

}  // namespace kvship
