#include "kernels/cuda/decode_step.h"

#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

// One or two sets of kept tokens per KV head.
class DecodeStepTest : public DeviceTest, public ::testing::WithParamInterface<size_t> {};

TEST_P(DecodeStepTest, EveryTailGetsRoomForOneTokenMore) {
  constexpr size_t kLayers = 3, kSequences = 2, kHeads = 2, kTailPages = 2;
  const size_t sets = GetParam();
  constexpr uint32_t kTailTokens[kSequences] = {31, 32};
  const DeviceArray<std::byte> memory(kLayers * kSequences * kHeads * kTailPages);
  std::vector<const std::byte*> table;
  for (size_t i = 0; i < kLayers * kSequences * kHeads * kTailPages; ++i) {
    table.push_back(memory.data() + i);
  }
  const DeviceArray<const std::byte*> device_table(table);
  std::vector<PagedHead> heads;
  for (size_t i = 0; i < kLayers * kSequences * kHeads * sets; ++i) {
    heads.push_back({.tail_pages = device_table.data() + i / sets * kTailPages,
                     .num_tail_tokens = kTailTokens[i / sets / kHeads % kSequences]});
  }
  const DeviceArray<PagedHead> device_heads(heads);
  const DeviceArray<std::byte*> pages(kLayers * kSequences * kHeads);
  const DeviceArray<int32_t> slots(kSequences), positions(std::vector<int32_t>{99, 7});
  ASSERT_TRUE(AdvanceTails(nullptr, {.heads = device_heads.data(),
                                     .pages = pages.data(),
                                     .slots = slots.data(),
                                     .positions = positions.data(),
                                     .num_layers = kLayers,
                                     .num_sequences = kSequences,
                                     .num_heads = kHeads * sets,
                                     .num_kv_heads = kHeads})
                  .ok());
  EXPECT_EQ(slots.ToHost(), (std::vector<int32_t>{31, 0}));
  EXPECT_EQ(positions.ToHost(), (std::vector<int32_t>{100, 8}));
  const std::vector<PagedHead> advanced = device_heads.ToHost();
  const std::vector<std::byte*> got = pages.ToHost();
  for (size_t i = 0; i < heads.size(); ++i) {
    EXPECT_EQ(advanced[i].num_tail_tokens, heads[i].num_tail_tokens + 1) << i;
  }
  for (size_t i = 0; i < got.size(); ++i) {
    const uint32_t before = kTailTokens[i / kHeads % kSequences];
    EXPECT_EQ(got[i], memory.data() + i * kTailPages + before / kPageTokens) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(SetsPerKvHead, DecodeStepTest, ::testing::Values(1, 2));

}  // namespace
}  // namespace kvship::cuda
