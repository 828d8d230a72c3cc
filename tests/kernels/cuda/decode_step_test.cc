#include "kernels/cuda/decode_step.h"

#include <cmath>
#include <limits>

#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

using DecodeStepTest = DeviceTest;

TEST_F(DecodeStepTest, EveryTailGetsRoomForOneTokenMore) {
  constexpr size_t kLayers = 3, kSequences = 2, kHeads = 2, kTailPages = 2;
  constexpr uint32_t kTailTokens[kSequences] = {31, 32};
  const DeviceArray<std::byte> memory(kLayers * kSequences * kHeads * kTailPages);
  std::vector<const std::byte*> table;
  for (size_t i = 0; i < kLayers * kSequences * kHeads * kTailPages; ++i) {
    table.push_back(memory.data() + i);
  }
  const DeviceArray<const std::byte*> device_table(table);
  std::vector<PagedHead> heads;
  for (size_t i = 0; i < kLayers * kSequences * kHeads; ++i) {
    heads.push_back({.tail_pages = device_table.data() + i * kTailPages,
                     .num_tail_tokens = kTailTokens[i / kHeads % kSequences]});
  }
  const DeviceArray<PagedHead> device_heads(heads);
  const DeviceArray<std::byte*> pages(heads.size());
  const DeviceArray<int32_t> slots(kSequences), positions(std::vector<int32_t>{99, 7});
  ASSERT_TRUE(AdvanceTails(nullptr, {.heads = device_heads.data(),
                                     .pages = pages.data(),
                                     .slots = slots.data(),
                                     .positions = positions.data(),
                                     .num_layers = kLayers,
                                     .num_sequences = kSequences,
                                     .num_kv_heads = kHeads})
                  .ok());
  EXPECT_EQ(slots.ToHost(), (std::vector<int32_t>{31, 0}));
  EXPECT_EQ(positions.ToHost(), (std::vector<int32_t>{100, 8}));
  const std::vector<PagedHead> advanced = device_heads.ToHost();
  const std::vector<std::byte*> got = pages.ToHost();
  for (size_t i = 0; i < heads.size(); ++i) {
    const uint32_t before = kTailTokens[i / kHeads % kSequences];
    EXPECT_EQ(advanced[i].num_tail_tokens, before + 1) << i;
    EXPECT_EQ(got[i], memory.data() + i * kTailPages + before / kPageTokens) << i;
  }
}

std::vector<int32_t> LikeliestOf(const std::vector<float>& logits, size_t rows) {
  const DeviceArray<float> device(logits);
  const DeviceArray<int32_t> tokens(rows);
  EXPECT_TRUE(LikeliestTokens(nullptr, {.logits = device.data(),
                                        .tokens = tokens.data(),
                                        .num_sequences = rows,
                                        .vocab_tokens = logits.size() / rows})
                  .ok());
  return tokens.ToHost();
}

TEST_F(DecodeStepTest, TheLikeliestTokenIsTheFirstOfTheLargest) {
  constexpr size_t kVocab = 5000;
  std::vector<float> logits(3 * kVocab, -1.0f);
  logits[4321] = 2.0f;
  logits[kVocab + 17] = logits[kVocab + 16] = logits[kVocab + 4999] = 3.0f;
  logits[2 * kVocab + 4999] = -0.5f;
  EXPECT_EQ(LikeliestOf(logits, 3), (std::vector<int32_t>{4321, 16, 4999}));
}

TEST_F(DecodeStepTest, NanIsNeverTheLikeliest) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(LikeliestOf({nan, -5.0f, nan, -4.0f}, 1), (std::vector<int32_t>{3}));
  EXPECT_EQ(LikeliestOf({nan, nan}, 1), (std::vector<int32_t>{0}));
}

}  // namespace
}  // namespace kvship::cuda
