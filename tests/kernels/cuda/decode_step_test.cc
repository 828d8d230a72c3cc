#include "kernels/cuda/decode_step.h"

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

}  // namespace
}  // namespace kvship::cuda
