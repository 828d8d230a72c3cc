#include "kv/pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>
#include <vector>

#include "tests/address_limit.h"
#include "tests/sanitized.h"

namespace kvship {
namespace {

constexpr size_t kSlab = KvPool::kSlabBytes;

absl::StatusOr<PageReservation> ReserveOne(KvPool& pool, size_t page_bytes, size_t num_pages) {
  const KvPool::Demand demand = {page_bytes, num_pages};
  return pool.Reserve({&demand, 1});
}

TEST(KvPool, OverGivenMemoryHandsOutItsPagesAndTouchesNone) {
  std::vector<std::byte> memory(2 * kSlab + 100, std::byte{7});
  {
    auto pool = *KvPool::CreateOver(memory);
    EXPECT_EQ(pool->capacity_bytes(), 2 * kSlab);
    auto pages = ReserveOne(*pool, 8192, 2 * kSlab / 8192);
    ASSERT_TRUE(pages.ok()) << pages.status();
    for (std::byte* page : pages->pages(0)) {
      EXPECT_GE(page, memory.data());
      EXPECT_LE(page + 8192, memory.data() + 2 * kSlab);
    }
    EXPECT_TRUE(absl::IsResourceExhausted(ReserveOne(*pool, 8192, 1).status()));
  }
  EXPECT_EQ(memory, std::vector<std::byte>(memory.size(), std::byte{7}));
  EXPECT_TRUE(
      absl::IsInvalidArgument(KvPool::CreateOver(std::span(memory).first(kSlab - 1)).status()));
}

TEST(KvPool, HandsOutDisjointPages) {
  auto pool = *KvPool::Create(4 * kSlab);
  const KvPool::Demand demands[] = {{8192, 40}, {2560, 50}, {8192, 3}};
  auto pages = pool->Reserve(demands);
  ASSERT_TRUE(pages.ok()) << pages.status();
  std::set<std::pair<std::byte*, size_t>> ranges;
  for (size_t d = 0; d < 3; ++d) {
    ASSERT_EQ(pages->pages(d).size(), demands[d].num_pages);
    for (std::byte* page : pages->pages(d)) {
      ranges.insert({page, demands[d].page_bytes});
      std::memset(page, 1, demands[d].page_bytes);
    }
  }
  ASSERT_EQ(ranges.size(), 93u);
  const std::byte* end = nullptr;
  for (const auto& [page, num_bytes] : ranges) {
    EXPECT_GE(page, end);
    end = page + num_bytes;
  }
  EXPECT_EQ(pool->reserved_bytes(), 43u * 8192 + 50 * 2560);
}

TEST(KvPool, BytesForIsTheLeastThatHolds) {
  const KvPool::Demand demands[] = {{8192, 40}, {2560, 103}, {8192, 25}};
  const size_t num_bytes = KvPool::BytesFor(demands);
  EXPECT_EQ(num_bytes, 5 * kSlab);  // of 32 pages, and of 102
  EXPECT_TRUE((*KvPool::Create(num_bytes))->Reserve(demands).ok());
  EXPECT_FALSE((*KvPool::Create(num_bytes - kSlab))->CheckFits(demands).ok());
}

TEST(KvPool, GivesAllOrNothing) {
  auto pool = *KvPool::Create(2 * kSlab);
  auto first = ReserveOne(*pool, kSlab, 1);
  ASSERT_TRUE(first.ok());
  const KvPool::Demand demands[] = {{1024, 1}, {2048, 1}};
  EXPECT_EQ(pool->Reserve(demands).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(pool->reserved_bytes(), kSlab);
  EXPECT_TRUE(ReserveOne(*pool, 1024, kSlab / 1024).ok());
}

TEST(KvPool, TellsNotNowFromNever) {
  auto pool = *KvPool::Create(2 * kSlab);
  auto all = ReserveOne(*pool, 4096, 2 * kSlab / 4096);
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(ReserveOne(*pool, 4096, 1).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReserveOne(*pool, 4096, 2 * kSlab / 4096 + 1).status().code(),
            absl::StatusCode::kFailedPrecondition);
  all->Release();
  EXPECT_EQ(pool->reserved_bytes(), 0u);
  EXPECT_TRUE(ReserveOne(*pool, 8192, 2 * kSlab / 8192).ok()) << "slabs change their page size";
}

TEST(KvPool, AMovedReservationIsGivenBackOnce) {
  auto pool = *KvPool::Create(kSlab);
  {
    PageReservation kept;
    {
      auto pages = ReserveOne(*pool, 1024, 4);
      ASSERT_TRUE(pages.ok());
      kept = *std::move(pages);
    }
    EXPECT_EQ(pool->reserved_bytes(), 4096u);
  }
  EXPECT_EQ(pool->reserved_bytes(), 0u);
}

TEST(KvPool, IsWholeAgainAfterRandomUse) {
  auto pool = *KvPool::Create(8 * kSlab);
  std::mt19937 random(7);
  std::vector<PageReservation> held;
  size_t reserved = 0;
  for (int i = 0; i < 2000; ++i) {
    if (random() % 2 == 0 && !held.empty()) {
      const size_t which = random() % held.size();
      reserved -= held[which].num_bytes();
      held.erase(held.begin() + which);
    } else {
      const size_t sizes[] = {512, 2560, 8192, 16384};
      auto pages = ReserveOne(*pool, sizes[random() % 4], 1 + random() % 40);
      if (pages.ok()) {
        reserved += pages->num_bytes();
        held.push_back(*std::move(pages));
      }
    }
    ASSERT_EQ(pool->reserved_bytes(), reserved);
  }
  held.clear();
  EXPECT_TRUE(ReserveOne(*pool, kSlab, 8).ok()) << "every slab is free again";
}

TEST(KvPool, IsWholeAfterAReservationForWhichMemoryWasShort) {
  if (kSanitized) GTEST_SKIP() << "sanitizers take more addresses than the limit lets them";
  auto pool = *KvPool::Create(64 * kSlab);
  {
    const AddressLimit limit(size_t{32} << 20);
    // A list of as many pages takes eight times their bytes.
    EXPECT_THROW((void)ReserveOne(*pool, 1, 64 * kSlab), std::bad_alloc);
  }
  EXPECT_EQ(pool->reserved_bytes(), 0u);
  EXPECT_TRUE(ReserveOne(*pool, kSlab, 64).ok());
}

TEST(KvPool, RefusesACapacityBelowOneSlab) {
  EXPECT_EQ(KvPool::Create(kSlab - 1).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvship
