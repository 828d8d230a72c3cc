#include "decode_service/prefix_places.h"

namespace kvship {

PrefixPlaces::Place PrefixPlaces::Find(std::span<const Sha256Digest> digests) const {
  for (size_t i = digests.size(); i > 0; --i) {
    const auto entry = entries_.find(digests[i - 1]);
    if (entry != entries_.end()) return {entry->second.address, i};
  }
  return {};
}

void PrefixPlaces::Note(std::span<const Sha256Digest> digests, const std::string& address) {
  // From last to first block, so that the LRU evicts a prompt's later blocks before its first one.
  for (size_t i = digests.size(); i-- > 0;) {
    const auto [entry, is_new] = entries_.try_emplace(digests[i]);
    if (!is_new) uses_.erase(entry->second.use);
    uses_.push_front(digests[i]);
    entry->second = {address, uses_.begin()};
  }
  while (entries_.size() > most_blocks_) {
    entries_.erase(uses_.back());
    uses_.pop_back();
  }
}

size_t PreferredPlace(std::span<const absl::string_view> addresses, const Sha256Digest& digest) {
  size_t preferred = 0;
  Sha256Digest highest = {};
  for (size_t i = 0; i < addresses.size(); ++i) {
    Sha256 sha;
    sha.Update(digest);
    sha.Update(std::as_bytes(std::span(addresses[i].data(), addresses[i].size())));
    const Sha256Digest hash = sha.Finish();
    if (hash < highest) continue;
    highest = hash;
    preferred = i;
  }
  return preferred;
}

}  // namespace kvship
