#include "kv/sequence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

namespace kvship {
namespace {

using ::testing::HasSubstr;

constexpr KvShape kShape = {
    .num_layers = 2, .num_kv_heads = 2, .num_query_heads = 4, .head_dim = 4};

class SequenceCacheTest : public ::testing::Test {
 protected:
  std::unique_ptr<SequenceCache> Reserve(const char* options, size_t prompt_tokens) {
    plan_ = *MakePlan(*ParseCompression(options), kShape, prompt_tokens);
    return *SequenceCache::Reserve(*pool_, kShape, plan_, 40, PageFormat::kF32);
  }

  // Bytes of a layer whose heads keep `kept_tokens`, each byte different from its neighbours.
  std::vector<std::byte> LayerBytes(std::span<const uint32_t> kept_tokens) {
    std::vector<std::byte> bytes(LayoutOf(plan_, kept_tokens).num_bytes);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 256);
    return bytes;
  }

  std::unique_ptr<KvPool> pool_ = *KvPool::Create(8 * KvPool::kSlabBytes);
  KvPlan plan_;
};

TEST_F(SequenceCacheTest, PagesAndPositionsHoldWhatWasWrittenInPieces) {
  const std::vector<uint32_t> kept = {40, 40};
  for (size_t piece : {size_t{1}, size_t{37}, size_t{4096}}) {
    auto cache = Reserve("budget_tokens=40,window=8", 100);
    const std::vector<std::byte> bytes = LayerBytes(kept);
    for (size_t layer = 0; layer < 2; ++layer) {
      ASSERT_TRUE(cache->BeginLayer(layer, kept).ok());
      ASSERT_EQ(cache->layer_bytes(), bytes.size());
      for (size_t i = 0; i < bytes.size(); i += piece) {
        const size_t n = std::min(piece, bytes.size() - i);
        ASSERT_TRUE(cache->WriteLayerBytes(i, std::span(bytes).subspan(i, n)).ok());
      }
      std::vector<PagedHead> heads;
      cache->AppendPagedHeads(layer, 0, &heads);
      const LayerLayout layout = LayoutOf(plan_, kept);
      for (size_t h = 0; h < 2; ++h) {
        EXPECT_EQ(heads[h].num_prefix_tokens, 40u);
        ASSERT_EQ(heads[h].prefix_pages.size(), 2u);
        EXPECT_EQ(0, std::memcmp(cache->positions(h).data(),
                                 bytes.data() + layout.heads[h].positions_offset, 160));
        const size_t page_bytes = PageBytes(PageFormat::kF16, 4);
        for (size_t p = 0; p < 2; ++p) {
          EXPECT_EQ(0, std::memcmp(heads[h].prefix_pages[p],
                                   bytes.data() + layout.heads[h].pages_offset + p * page_bytes,
                                   page_bytes));
        }
      }
    }
  }
}

TEST_F(SequenceCacheTest, TheTailBelongsToKvHeadsEvenIfThePrefixIsPerQueryHead) {
  auto cache = Reserve("budget_tokens=40,window=8,group_reduce=none", 100);
  const std::vector<uint32_t> kept = {40, 40, 40, 40};
  ASSERT_TRUE(cache->BeginLayer(0, kept).ok());
  std::vector<PagedHead> heads;
  cache->AppendPagedHeads(0, 33, &heads);
  ASSERT_EQ(heads.size(), 4u);
  EXPECT_EQ(heads[0].tail_pages.data(), heads[1].tail_pages.data());
  EXPECT_EQ(heads[2].tail_pages.data(), heads[3].tail_pages.data());
  EXPECT_NE(heads[0].tail_pages.data(), heads[2].tail_pages.data());
  EXPECT_EQ(heads[3].tail_pages.size(), 2u);
  EXPECT_EQ(cache->tail_page(0, 1, 32), heads[3].tail_pages[1]);
}

TEST_F(SequenceCacheTest, TheNextPositionIsThePromptsLengthWhateverWasKept) {
  auto cache = Reserve("budget_tokens=40,window=8", 100);
  EXPECT_EQ(cache->next_position(), 100u);
  cache->AdvanceTail();
  EXPECT_EQ(cache->next_position(), 101u);
}

TEST_F(SequenceCacheTest, RefusesLayersThatDoNotFitThePlan) {
  auto cache = Reserve("budget_tokens=40,window=8", 100);
  EXPECT_THAT(std::string(cache->BeginLayer(1, std::vector<uint32_t>{40, 40}).message()),
              HasSubstr("layer 1 came; wanted layer 0"));
  EXPECT_THAT(std::string(cache->BeginLayer(0, std::vector<uint32_t>{40}).message()),
              HasSubstr("has 1 heads; the plan has 2"));
  EXPECT_FALSE(cache->BeginLayer(0, std::vector<uint32_t>{40, 41}).ok());
  EXPECT_FALSE(cache->BeginLayer(0, std::vector<uint32_t>{0xffffffff, 0xffffffff}).ok());
  EXPECT_TRUE(cache->BeginLayer(0, std::vector<uint32_t>{40, 40}).ok());
}

TEST_F(SequenceCacheTest, RefusesBytesOutsideTheLayer) {
  auto cache = Reserve("budget_tokens=40,window=8", 100);
  const std::vector<std::byte> bytes(10);
  EXPECT_FALSE(cache->WriteLayerBytes(0, bytes).ok()) << "no layer was begun";
  ASSERT_TRUE(cache->BeginLayer(0, std::vector<uint32_t>{40, 40}).ok());
  EXPECT_FALSE(cache->WriteLayerBytes(cache->layer_bytes() - 9, bytes).ok());
  EXPECT_FALSE(cache->WriteLayerBytes(SIZE_MAX - 4, bytes).ok());
  EXPECT_TRUE(cache->WriteLayerBytes(cache->layer_bytes() - 10, bytes).ok());
}

TEST_F(SequenceCacheTest, TheWindowInFullPrecisionOpensTheTail) {
  auto cache = Reserve("encoder=f16,window_encoder=f32,budget_tokens=60,window=40", 100);
  ASSERT_EQ(plan_.tail_tokens, 40u);
  const std::vector<uint32_t> kept = {60, 60};
  const std::vector<std::byte> bytes = LayerBytes(kept);
  const LayerLayout layout = LayoutOf(plan_, kept);
  ASSERT_TRUE(cache->BeginLayer(0, kept).ok());
  for (size_t i = 0; i < bytes.size(); i += 100) {
    const size_t n = std::min<size_t>(100, bytes.size() - i);
    ASSERT_TRUE(cache->WriteLayerBytes(i, std::span(bytes).subspan(i, n)).ok());
  }
  const size_t page_bytes = PageBytes(PageFormat::kF32, 4);
  for (size_t h = 0; h < 2; ++h) {
    EXPECT_EQ(cache->positions(h).size(), 20u);
    for (size_t page = 0; page < 2; ++page) {
      const size_t offset = layout.tails_offset + h * layout.tail_bytes + page * page_bytes;
      EXPECT_EQ(0, std::memcmp(cache->tail_page(0, h, page * kPageTokens), bytes.data() + offset,
                               page_bytes));
    }
  }
  std::vector<PagedHead> heads;
  cache->AppendPagedHeads(0, cache->num_tail_tokens() + 1, &heads);
  EXPECT_EQ(heads[1].num_prefix_tokens, 20u);
  EXPECT_EQ(heads[1].num_tail_tokens, 41u);
  EXPECT_EQ(cache->next_position(), 100u);
  EXPECT_EQ(cache->max_tail_tokens(), 80u);
  EXPECT_FALSE(cache->BeginLayer(1, std::vector<uint32_t>{60, 39}).ok())
      << "no head keeps fewer than the tail";
}

TEST_F(SequenceCacheTest, UnusedPagesOfABoundGoBack) {
  auto cache = Reserve("allocator=mass,budget_tokens=64,window=8", 1000);
  const size_t reserved = pool_->reserved_bytes();
  for (size_t layer = 0; layer < 2; ++layer) {
    ASSERT_TRUE(cache->BeginLayer(layer, std::vector<uint32_t>{20, 64}).ok());
  }
  cache->GiveBackUnusedPages();
  const size_t page_bytes = PageBytes(PageFormat::kF16, 4);
  EXPECT_EQ(cache->prompt_bytes(), 2 * 3 * page_bytes);
  EXPECT_EQ(pool_->reserved_bytes(), reserved - (plan_.num_pages() - 6) * page_bytes);
  EXPECT_EQ(cache->pool_bytes(), pool_->reserved_bytes());
  cache.reset();
  EXPECT_EQ(pool_->reserved_bytes(), 0u);
}

// A pool in memory that only its writer reaches: a copy far from the addresses that it hands out.
class FarMemoryTest : public SequenceCacheTest {
 protected:
  FarMemoryTest() {
    pool_ = *KvPool::CreateOver(addresses_, [this](std::span<const KvPool::PageBytes> copies) {
      for (const KvPool::PageBytes& copy : copies) {
        std::memcpy(far_.data() + (copy.to - addresses_.data()), copy.from.data(),
                    copy.from.size());
      }
      num_copies_ += copies.size();
      return written_;
    });
  }

  std::vector<std::byte> addresses_ = std::vector<std::byte>(8 * KvPool::kSlabBytes);
  std::vector<std::byte> far_ = std::vector<std::byte>(8 * KvPool::kSlabBytes);
  size_t num_copies_ = 0;
  absl::Status written_;
};

TEST_F(FarMemoryTest, GetsThePagesByItsWriterAndThePositionsStayHere) {
  const std::vector<uint32_t> kept = {40, 40};
  const auto cache = Reserve("budget_tokens=40,window=8", 100);
  const std::vector<std::byte> bytes = LayerBytes(kept);
  const LayerLayout layout = LayoutOf(plan_, kept);
  ASSERT_TRUE(cache->BeginLayer(0, kept).ok());
  ASSERT_TRUE(cache->WriteLayerBytes(0, bytes).ok());
  EXPECT_EQ(num_copies_, 2u);  // a head's pages lie side by side, positions between heads
  std::vector<PagedHead> heads;
  cache->AppendPagedHeads(0, 0, &heads);
  for (size_t h = 0; h < 2; ++h) {
    EXPECT_EQ(0, std::memcmp(cache->positions(h).data(),
                             bytes.data() + layout.heads[h].positions_offset, 160));
    const size_t page_bytes = PageBytes(PageFormat::kF16, 4);
    for (size_t p = 0; p < 2; ++p) {
      const std::byte* page = far_.data() + (heads[h].prefix_pages[p] - addresses_.data());
      EXPECT_EQ(0, std::memcmp(page, bytes.data() + layout.heads[h].pages_offset + p * page_bytes,
                               page_bytes));
    }
  }
  EXPECT_TRUE(std::all_of(addresses_.begin(), addresses_.end(),
                          [](std::byte b) { return b == std::byte{0}; }));
}

TEST_F(FarMemoryTest, TheWritersErrorIsTheReceivers) {
  const std::vector<uint32_t> kept = {40, 40};
  const auto cache = Reserve("budget_tokens=40,window=8", 100);
  ASSERT_TRUE(cache->BeginLayer(0, kept).ok());
  written_ = absl::InternalError("copy of pages: lost");
  EXPECT_EQ(cache->WriteLayerBytes(0, LayerBytes(kept)), written_);
}

TEST_F(SequenceCacheTest, CachesHaveIdsOfTheirOwn) {
  auto first = Reserve("budget_tokens=40,window=8", 100);
  const uint64_t id = first->id();
  first.reset();
  EXPECT_NE(Reserve("budget_tokens=40,window=8", 100)->id(), id);
}

TEST_F(SequenceCacheTest, GivesItsPagesBack) {
  { auto cache = Reserve("scorer=keep_all", 100); }
  EXPECT_EQ(pool_->reserved_bytes(), 0u);
}

}  // namespace
}  // namespace kvship
