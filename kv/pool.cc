#include "kv/pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvship {

PageReservation& PageReservation::operator=(PageReservation&& other) noexcept {
  if (this == &other) return *this;
  Release();
  pool_ = std::exchange(other.pool_, nullptr);
  pages_ = std::exchange(other.pages_, {});
  num_bytes_ = std::exchange(other.num_bytes_, 0);
  return *this;
}

void PageReservation::Truncate(size_t demand, size_t num_pages) {
  std::vector<std::byte*>& pages = pages_[demand];
  if (num_pages >= pages.size()) return;
  std::lock_guard lock(pool_->mutex_);
  const size_t num_bytes = pool_->GiveBack(std::span(pages).subspan(num_pages));
  pages.resize(num_pages);
  num_bytes_ -= num_bytes;
  pool_->reserved_bytes_ -= num_bytes;
}

void PageReservation::Release() {
  if (pool_ == nullptr) return;
  std::lock_guard lock(pool_->mutex_);
  for (const auto& pages : pages_) pool_->GiveBack(pages);
  pool_->reserved_bytes_ -= num_bytes_;
  pool_ = nullptr;
  pages_.clear();
  num_bytes_ = 0;
}

namespace {

size_t SlabsFor(size_t num_pages, size_t page_bytes) {
  const size_t pages_per_slab = KvPool::kSlabBytes / page_bytes;
  return (num_pages + pages_per_slab - 1) / pages_per_slab;
}

// Demands of one page size share slabs: counted together.
std::map<size_t, size_t> PagesBySize(std::span<const KvPool::Demand> demands) {
  std::map<size_t, size_t> num_pages;
  for (const KvPool::Demand& demand : demands) num_pages[demand.page_bytes] += demand.num_pages;
  return num_pages;
}

absl::StatusOr<size_t> NumSlabs(size_t capacity_bytes) {
  const size_t num_slabs = capacity_bytes / KvPool::kSlabBytes;
  if (num_slabs > 0) return num_slabs;
  return absl::InvalidArgumentError(absl::StrCat("the pool's capacity is ", capacity_bytes,
                                                 " bytes; wanted at least ", KvPool::kSlabBytes));
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvPool>> KvPool::Create(size_t capacity_bytes) {
  ASSIGN_OR_RETURN(const size_t num_slabs, NumSlabs(capacity_bytes));
  void* memory = mmap(nullptr, num_slabs * kSlabBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no address space for a pool of ", capacity_bytes, " bytes"));
  }
  return std::unique_ptr<KvPool>(
      new KvPool(static_cast<std::byte*>(memory), num_slabs, /*is_mapped=*/true, nullptr));
}

absl::StatusOr<std::unique_ptr<KvPool>> KvPool::CreateOver(std::span<std::byte> memory,
                                                           Writer writer) {
  ASSIGN_OR_RETURN(const size_t num_slabs, NumSlabs(memory.size()));
  return std::unique_ptr<KvPool>(
      new KvPool(memory.data(), num_slabs, /*is_mapped=*/false, std::move(writer)));
}

KvPool::KvPool(std::byte* memory, size_t num_slabs, bool is_mapped, Writer writer)
    : memory_(memory), is_mapped_(is_mapped), writer_(std::move(writer)), slabs_(num_slabs) {
  for (size_t i = num_slabs; i-- > 0;) free_slabs_.push_back(i);
}

KvPool::~KvPool() {
  if (is_mapped_) munmap(memory_, capacity_bytes());
}

size_t KvPool::reserved_bytes() const {
  std::lock_guard lock(mutex_);
  return reserved_bytes_;
}

size_t KvPool::SlabsMissing(const Demand& demand) const {
  size_t room = 0;
  if (auto it = slabs_with_room_.find(demand.page_bytes); it != slabs_with_room_.end()) {
    for (size_t slab : it->second) room += slabs_[slab].free_pages.size();
  }
  if (room >= demand.num_pages) return 0;
  return SlabsFor(demand.num_pages - room, demand.page_bytes);
}

size_t KvPool::BytesFor(std::span<const Demand> demands) {
  size_t num_slabs = 0;
  for (const auto& [page_bytes, num_pages] : PagesBySize(demands)) {
    num_slabs += SlabsFor(num_pages, page_bytes);
  }
  return num_slabs * kSlabBytes;
}

absl::Status KvPool::CheckFits(std::span<const Demand> demands) const {
  for (const Demand& demand : demands) {
    if (demand.page_bytes == 0 || demand.page_bytes > kSlabBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("a page has ", demand.page_bytes, " bytes; wanted 1 to ", kSlabBytes));
    }
  }
  const size_t num_bytes = BytesFor(demands);
  if (num_bytes <= capacity_bytes()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the cache needs ", num_bytes, " bytes; the whole pool has ", capacity_bytes()));
}

absl::StatusOr<PageReservation> KvPool::Reserve(std::span<const Demand> demands) {
  RETURN_IF_ERROR(CheckFits(demands));
  // Where memory is short it goes half done, and gives back what it has: after the lock is free.
  PageReservation reservation;
  std::lock_guard lock(mutex_);
  size_t slabs_now = 0;
  for (const auto& [page_bytes, num_pages] : PagesBySize(demands)) {
    slabs_now += SlabsMissing({page_bytes, num_pages});
  }
  if (slabs_now > free_slabs_.size()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the cache needs ", slabs_now * kSlabBytes, " more bytes; the pool has ",
                     free_slabs_.size() * kSlabBytes, " free of ", capacity_bytes()));
  }
  for (const Demand& demand : demands) {
    reservation.pages_.emplace_back().reserve(demand.num_pages);
  }
  reservation.pool_ = this;
  for (size_t d = 0; d < demands.size(); ++d) {
    reservation.num_bytes_ += demands[d].num_bytes();
    reserved_bytes_ += demands[d].num_bytes();
    Take(demands[d], &reservation.pages_[d]);
  }
  return reservation;
}

void KvPool::Take(const Demand& demand, std::vector<std::byte*>* pages) {
  if (demand.num_pages == 0) return;
  std::vector<size_t>& with_room = slabs_with_room_[demand.page_bytes];
  while (pages->size() < demand.num_pages) {
    if (with_room.empty()) {
      const size_t index = free_slabs_.back();
      free_slabs_.pop_back();
      with_room.push_back(index);
      Slab& slab = slabs_[index];
      slab.page_bytes = demand.page_bytes;
      // The lowest page last, to be handed out first.
      for (size_t i = kSlabBytes / demand.page_bytes; i-- > 0;) {
        slab.free_pages.push_back(memory_ + index * kSlabBytes + i * demand.page_bytes);
      }
    }
    Slab& slab = slabs_[with_room.back()];
    while (pages->size() < demand.num_pages && !slab.free_pages.empty()) {
      pages->push_back(slab.free_pages.back());
      slab.free_pages.pop_back();
    }
    if (slab.free_pages.empty()) with_room.pop_back();
  }
}

size_t KvPool::GiveBack(std::span<std::byte* const> pages) {
  size_t num_bytes = 0;
  for (auto page = pages.rbegin(); page != pages.rend(); ++page) {
    const size_t index = static_cast<size_t>(*page - memory_) / kSlabBytes;
    Slab& slab = slabs_[index];
    num_bytes += slab.page_bytes;
    std::vector<size_t>& with_room = slabs_with_room_[slab.page_bytes];
    if (slab.free_pages.empty()) with_room.push_back(index);
    slab.free_pages.push_back(*page);
    if (slab.free_pages.size() == kSlabBytes / slab.page_bytes) {
      with_room.erase(std::find(with_room.begin(), with_room.end(), index));
      slab = Slab();
      free_slabs_.push_back(index);
    }
  }
  return num_bytes;
}

}  // namespace kvship
