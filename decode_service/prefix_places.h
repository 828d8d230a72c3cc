// PrefixPlaces remembers which prefill node was last given each beginning of a prompt, so that one
// that begins alike can go where K and V of it may still be. It forgets the least recently used.
// Not thread safe.
#pragma once

#include <cstddef>
#include <list>
#include <map>
#include <span>
#include <string>

#include "absl/strings/string_view.h"
#include "base/sha256.h"

namespace kvship {

class PrefixPlaces {
 public:
  // Blocks of 16M tokens, in about 10 MB.
  static constexpr size_t kMostBlocks = 1 << 16;

  explicit PrefixPlaces(size_t most_blocks = kMostBlocks) : most_blocks_(most_blocks) {}

  struct Place {
    std::string address;    // empty: nowhere
    size_t num_blocks = 0;  // of the prompt, from its beginning, that the node was given
  };
  // Where the longest beginning of a prompt is; `digests` are its PrefixDigests.
  Place Find(std::span<const Sha256Digest> digests) const;

  // A node is given a prompt.
  void Note(std::span<const Sha256Digest> digests, const std::string& address);

 private:
  struct Entry {
    std::string address;
    std::list<Sha256Digest>::iterator use;
  };

  const size_t most_blocks_;
  std::list<Sha256Digest> uses_;  // the latest first
  std::map<Sha256Digest, Entry> entries_;
};

// Of `addresses`, at least one, the place of what is given with a prompt that begins with the block
// of this digest, by a rule that all processes share: the highest hash of both (rendezvous hashing,
// Thaler and Ravishankar 1998), so that one that comes or goes moves its own beginnings alone.
size_t PreferredPlace(std::span<const absl::string_view> addresses, const Sha256Digest& digest);

}  // namespace kvship
