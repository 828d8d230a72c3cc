#include "engine/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "base/buffer.h"
#include "base/out_of_memory.h"
#include "base/status_macros.h"

namespace kvship {

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

std::vector<PrefixCache::Block> PrefixCache::Find(std::span<const Sha256Digest> digests) {
  std::vector<Entry*> found;
  for (const Sha256Digest& digest : digests) {
    const auto entry = entries_.find(digest);
    if (entry == entries_.end()) break;
    found.push_back(&entry->second);
  }
  std::vector<Block> blocks;
  for (Entry* entry : found) blocks.push_back(entry->block);
  // The first is used last: without it the others are of no use.
  for (size_t i = found.size(); i-- > 0;) found[i]->last_used = ++clock_;
  return blocks;
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

PrefixCache::Block PrefixCache::Take() {
  if (free_->empty() && num_allocated_ < max_blocks_) {
    // Room for all of them, as blocks come back where nothing may fail.
    free_->reserve(num_allocated_ + 1);
    absl::StatusOr<Block> made = allocate_(block_bytes_);
    if (made.ok()) {
      free_->push_back(*std::move(made));
      ++num_allocated_;
    }
  }
  if (free_->empty() && !MakeRoom()) return nullptr;
  Block memory = std::move(free_->back());
  free_->pop_back();
  std::byte* const bytes = memory.get();
  return Block(bytes, [free = free_, memory = std::move(memory)](std::byte*) mutable {
    free->push_back(std::move(memory));
  });
}

void PrefixCache::Insert(std::span<const Sha256Digest> digests, std::span<const Block> blocks) {
  // As in Find: the first is used last. Another prompt may have brought the same meanwhile.
  for (size_t i = blocks.size(); i-- > 0;) {
    entries_.try_emplace(digests[i], Entry{blocks[i], ++clock_});
  }
}

}  // namespace kvship
