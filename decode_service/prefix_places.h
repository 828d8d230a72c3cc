// PrefixPlaces maps beginnings of prompts to the prefill node that was last given each, so that a
// prompt with the same beginning can be routed to where its K and V may be cached. An LRU. Not
// thread safe.
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
  // Covers 16M tokens, in about 10 MB.
  static constexpr size_t kMostBlocks = 1 << 16;

  explicit PrefixPlaces(size_t most_blocks = kMostBlocks) : most_blocks_(most_blocks) {}

  struct Place {
    std::string address;    // empty: unknown
    size_t num_blocks = 0;  // blocks from the prompt's start that the node was given
  };
  // Finds the node with the longest beginning of a prompt; `digests` are its PrefixDigests.
  Place Find(std::span<const Sha256Digest> digests) const;

  // Records that a node is given a prompt.
  void Note(std::span<const Sha256Digest> digests, const std::string& address);

 private:
  struct Entry {
    std::string address;
    std::list<Sha256Digest>::iterator use;
  };

  const size_t most_blocks_;
  std::list<Sha256Digest> uses_;  // most recent first
  std::map<Sha256Digest, Entry> entries_;
};

// Returns the index in `addresses`, not empty, of the node for new prompts whose first block has
// `digest`, by a rule common to all processes: the highest hash of both (rendezvous hashing, Thaler
// and Ravishankar 1998). A node that comes or goes moves only its own beginnings.
size_t PreferredPlace(std::span<const absl::string_view> addresses, const Sha256Digest& digest);

}  // namespace kvship
