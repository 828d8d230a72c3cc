#include "engine/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/buffer.h"
#include "base/out_of_memory.h"
#include "base/status_macros.h"

namespace kvship {

absl::Status PrefixCache::CheckBytes(size_t prefix_cache_bytes, size_t block_bytes) {
  if (prefix_cache_bytes == 0 || prefix_cache_bytes >= block_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("prefix_cache_bytes ", prefix_cache_bytes, ": wanted 0, or at least ",
                   block_bytes, ", which hold ", kPrefixBlockTokens, " tokens of this model"));
}

absl::StatusOr<PrefixCache::Block> PrefixCache::OnHost(size_t num_bytes) {
  Block block;
  RETURN_IF_ERROR(UnlessOutOfMemory([&]() -> absl::Status {
    const auto buffer = std::make_shared<Buffer>(num_bytes);
    block = Block(buffer, buffer->data());
    return absl::OkStatus();
  }));
  return block;
}

PrefixCache::PrefixCache(size_t block_bytes, size_t max_bytes, Allocate allocate)
    : block_bytes_(block_bytes),
      max_blocks_(max_bytes / block_bytes),
      allocate_(std::move(allocate)) {}

absl::Status PrefixCache::TakeMemory() {
  while (num_allocated_ < max_blocks_) RETURN_IF_ERROR(TakeMemoryOfBlock());
  return absl::OkStatus();
}

absl::Status PrefixCache::TakeMemoryOfBlock() {
  // Room for all of them, as blocks come back where nothing may fail.
  free_->reserve(num_allocated_ + 1);
  ASSIGN_OR_RETURN(Block block, allocate_(block_bytes_));
  free_->push_back(std::move(block));
  ++num_allocated_;
  return absl::OkStatus();
}

PrefixCache::Prefix PrefixCache::Begin(std::span<const int32_t> tokens,
                                       absl::string_view cache_salt, size_t most_reused) {
  Prefix prefix;
  if (max_blocks_ == 0) return prefix;
  prefix.digests = PrefixDigests(tokens, cache_salt);
  Find(&prefix);
  prefix.num_found = prefix.blocks.size();
  prefix.num_reused = std::min(prefix.num_found, most_reused / kPrefixBlockTokens);
  while (prefix.blocks.size() < prefix.digests.size()) {
    Block block = Take();
    if (block == nullptr) break;
    prefix.blocks.push_back(std::move(block));
  }
  return prefix;
}

size_t PrefixCache::CountReusable(std::span<const int32_t> tokens, absl::string_view cache_salt,
                                  size_t most_reused) const {
  if (entries_.empty()) return 0;
  const std::vector<Sha256Digest> digests =
      PrefixDigests(tokens.first(std::min(tokens.size(), most_reused)), cache_salt);
  const auto first_missing =
      std::find_if(digests.begin(), digests.end(),
                   [this](const Sha256Digest& digest) { return !entries_.contains(digest); });
  return static_cast<size_t>(first_missing - digests.begin()) * kPrefixBlockTokens;
}

void PrefixCache::Find(Prefix* prefix) {
  std::vector<Entry*> found;
  for (const Sha256Digest& digest : prefix->digests) {
    const auto entry = entries_.find(digest);
    if (entry == entries_.end()) break;
    found.push_back(&entry->second);
    prefix->blocks.push_back(entry->second.block);
  }
  // The first is used last: without it the others are of no use.
  for (size_t i = found.size(); i-- > 0;) found[i]->last_used = ++clock_;
}

PrefixCache::Block PrefixCache::Take() {
  // Where the system gives no more, it has to do with what there is.
  if (free_->empty() && num_allocated_ < max_blocks_) TakeMemoryOfBlock().IgnoreError();
  if (free_->empty() && !MakeRoom()) return nullptr;
  Block memory = std::move(free_->back());
  free_->pop_back();
  std::byte* const bytes = memory.get();
  return Block(bytes, [free = free_, memory = std::move(memory)](std::byte*) mutable {
    free->push_back(std::move(memory));
  });
}

bool PrefixCache::MakeRoom() {
  auto oldest = entries_.end();
  for (auto at = entries_.begin(); at != entries_.end(); ++at) {
    if (at->second.block.use_count() > 1) continue;
    if (oldest == entries_.end() || at->second.last_used < oldest->second.last_used) oldest = at;
  }
  if (oldest == entries_.end()) return false;
  entries_.erase(oldest);
  return true;
}

void PrefixCache::Keep(const Prefix& prefix) {
  // As in Find: the first is used last. Another prompt may have brought the same meanwhile.
  for (size_t i = prefix.blocks.size(); i-- > 0;) {
    entries_.try_emplace(prefix.digests[i], Entry{prefix.blocks[i], 0}).first->second.last_used =
        ++clock_;
  }
}

}  // namespace kvship
