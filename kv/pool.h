// KvPool is the page allocator for the KV caches of a decode node. One arena is cut into slabs of
// equal size; a slab in use is cut into pages of one size. Reserve hands out the pages themselves,
// so a reservation cannot fail later. Thread safe; the pool must outlive its reservations.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "absl/status/statusor.h"

namespace kvship {

class KvPool;

// PageReservation owns pages until it is destroyed. Movable; not thread safe by itself.
class PageReservation {
 public:
  PageReservation() = default;
  PageReservation(PageReservation&& other) noexcept { *this = std::move(other); }
  PageReservation& operator=(PageReservation&& other) noexcept;
  ~PageReservation() { Release(); }

  // The pages of one demand, in ascending address order where possible.
  std::span<std::byte* const> pages(size_t demand) const { return pages_[demand]; }
  size_t num_bytes() const { return num_bytes_; }

  // Returns the pages of one demand from index num_pages on to the pool.
  void Truncate(size_t demand, size_t num_pages);
  // Returns all pages to the pool; the destructor does so too.
  void Release();

 private:
  friend class KvPool;
  KvPool* pool_ = nullptr;
  std::vector<std::vector<std::byte*>> pages_;
  size_t num_bytes_ = 0;
};

class KvPool {
 public:
  struct Demand {
    size_t page_bytes = 0;
    size_t num_pages = 0;

    size_t num_bytes() const { return page_bytes * num_pages; }
  };

  static constexpr size_t kSlabBytes = 256 << 10;

  // The bytes of a pool that holds the demands and nothing else: whole slabs, each with pages of
  // one size. No page may be larger than a slab.
  static size_t BytesFor(std::span<const Demand> demands);

  // A copy: source bytes and destination. At most one of the two is in host memory; the rest is on
  // the pool's device.
  struct PageBytes {
    std::byte* to = nullptr;
    std::span<const std::byte> from;
  };
  // Performs copies that the host cannot do; they are complete when it returns. Called from any
  // thread, possibly concurrently.
  using Writer = std::function<absl::Status(std::span<const PageBytes>)>;

  // `capacity_bytes` is rounded down to whole slabs. InvalidArgument below one slab;
  // ResourceExhausted if the system has no such address space. The system commits memory on first
  // use.
  static absl::StatusOr<std::unique_ptr<KvPool>> Create(size_t capacity_bytes);
  // Creates a pool over `memory`, device memory for example, which must outlive the pool; the pool
  // itself never accesses it. Without `writer`, the host writes to the memory directly.
  static absl::StatusOr<std::unique_ptr<KvPool>> CreateOver(std::span<std::byte> memory,
                                                            Writer writer = nullptr);
  ~KvPool();

  // Null if the host writes to the pages directly.
  const Writer& writer() const { return writer_; }

  // FailedPrecondition if the whole pool could not hold the demands; InvalidArgument if a page is
  // empty or larger than a slab.
  absl::Status CheckFits(std::span<const Demand> demands) const;

  // Reserves pages for all demands, or none. ResourceExhausted if the pages are not free now; other
  // errors as CheckFits. The pages are not cleared.
  absl::StatusOr<PageReservation> Reserve(std::span<const Demand> demands);

  size_t capacity_bytes() const { return slabs_.size() * kSlabBytes; }
  // Bytes of all reserved pages.
  size_t reserved_bytes() const;

 private:
  friend class PageReservation;
  struct Slab {
    size_t page_bytes = 0;  // 0: the slab is free
    std::vector<std::byte*> free_pages;
  };

  KvPool(std::byte* memory, size_t num_slabs, bool is_mapped, Writer writer);
  size_t SlabsMissing(const Demand& demand) const;
  void Take(const Demand& demand, std::vector<std::byte*>* pages);
  // Returns the number of bytes given back.
  size_t GiveBack(std::span<std::byte* const> pages);

  std::byte* const memory_;
  const bool is_mapped_;  // Create mapped it; the destructor unmaps it
  const Writer writer_;
  mutable std::mutex mutex_;
  std::vector<Slab> slabs_;
  std::vector<size_t> free_slabs_;  // in descending order at first, to hand out low addresses
  std::map<size_t, std::vector<size_t>>
      slabs_with_room_;  // by page size: slabs with some free pages
  size_t reserved_bytes_ = 0;
};

}  // namespace kvship
