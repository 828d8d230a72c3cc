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

namespace kvship {

class PrefixCache {
 public:
  // A block's bytes. shared: with the runs that use it, which keeps it from being given to others
  using Block = std::shared_ptr<std::byte>;
  // Makes memory for one block, which is kept till the end and used again and again.
  using Allocate = std::function<absl::StatusOr<Block>(size_t num_bytes)>;

  // Memory of the host.
  static absl::StatusOr<Block> OnHost(size_t num_bytes);

  // Takes up to max_bytes, as blocks are asked for; with less than block_bytes it is always empty.
  PrefixCache(size_t block_bytes, size_t max_bytes, Allocate allocate = OnHost);

  // The blocks of a prompt's beginning, known by PrefixDigests: from the first to the last before
  // one that is not here.
  std::vector<Block> Find(std::span<const Sha256Digest> digests);

  // A block to fill, at the cost of the least recently used one that is in nobody's hands; null if
  // there is none.
  Block Take();

  // Keeps the filled blocks of a prompt, blocks[i] by digests[i].
  void Insert(std::span<const Sha256Digest> digests, std::span<const Block> blocks);

  // Of the blocks that Find can find.
  size_t num_bytes() const { return entries_.size() * block_bytes_; }

 private:
  struct Entry {
    Block block;
    uint64_t last_used;
  };
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
