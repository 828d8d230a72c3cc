// KvPool is the memory of the decode side's caches: one arena, cut into slabs of equal size, each
// of which is cut into pages of one size while any of them is in use. Reserving hands out the pages
// themselves, so that what was reserved can never turn out not to be there. Thread safe; the pool
// must outlive its reservations.
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

// Pages that belong to one owner until it is destroyed. Movable; not thread safe by itself.
class PageReservation {
 public:
  PageReservation() = default;
  PageReservation(PageReservation&& other) noexcept { *this = std::move(other); }
  PageReservation& operator=(PageReservation&& other) noexcept;
  ~PageReservation() { Release(); }

  // Pages of the d-th demand, ascending by address where they can be.
  std::span<std::byte* const> pages(size_t demand) const { return pages_[demand]; }
  size_t num_bytes() const { return num_bytes_; }

  // Gives back the pages of one demand from the num_pages-th on.
  void Truncate(size_t demand, size_t num_pages);
  // Gives all pages back; the destructor does it too.
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

  // Bytes and where they go; one of the two may be in the host's memory, the others are on the
  // pool's device.
  struct PageBytes {
    std::byte* to = nullptr;
    std::span<const std::byte> from;
  };
  // Copies what the host cannot reach; done when it returns. Called by any thread, by several at a
  // time.
  using Writer = std::function<absl::Status(std::span<const PageBytes>)>;

  // `capacity_bytes` is rounded down to whole slabs. InvalidArgument below one slab,
  // ResourceExhausted if the system has no such memory. The memory is taken from the system as it
  // is first used.
  static absl::StatusOr<std::unique_ptr<KvPool>> Create(size_t capacity_bytes);
  // The same over memory that outlives the pool, of a device for example: the pool never touches
  // it. Without `writer` the host writes to it as to its own.
  static absl::StatusOr<std::unique_ptr<KvPool>> CreateOver(std::span<std::byte> memory,
                                                            Writer writer = nullptr);
  ~KvPool();

  // None where the host writes to the pages itself.
  const Writer& writer() const { return writer_; }

  // FailedPrecondition if the demands are more than the whole pool holds, in slabs of which each
  // has pages of one size; InvalidArgument if a page is larger than a slab.
  absl::Status CheckFits(std::span<const Demand> demands) const;

  // Pages for all demands, or none. ResourceExhausted: not now; other errors as CheckFits. Pages
  // are not cleared.
  absl::StatusOr<PageReservation> Reserve(std::span<const Demand> demands);

  size_t capacity_bytes() const { return slabs_.size() * kSlabBytes; }
  // Bytes of pages handed out.
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
  // Returns their bytes.
  size_t GiveBack(std::span<std::byte* const> pages);

  std::byte* const memory_;
  const bool is_mapped_;  // by Create, to be unmapped
  const Writer writer_;
  mutable std::mutex mutex_;
  std::vector<Slab> slabs_;
  std::vector<size_t> free_slabs_;  // the lowest last
  std::map<size_t, std::vector<size_t>>
      slabs_with_room_;  // by page size: slabs with some free pages
  size_t reserved_bytes_ = 0;
};

}  // namespace kvship
