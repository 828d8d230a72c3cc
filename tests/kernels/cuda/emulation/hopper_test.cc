// What the emulation makes of Hopper's instructions, and which mistakes it shows.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "kernels/cuda/barrier.cuh"
#include "kernels/cuda/box_copy.cuh"
#include "kernels/cuda/warpgroup.cuh"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

constexpr size_t kSharedBytes = 24 << 10;
constexpr int kRows = 64;

using Body = std::function<void(std::byte* panels)>;

// Runs a block of one warpgroup; `panels` is where an operand may lie.
void RunBlock(const Body& body) {
  emulation::Block::Current().Run(128, kSharedBytes, [&] {
    const uint32_t past = SharedAddress(DynamicSharedMemory()) % kPanelAlignment;
    body(DynamicSharedMemory() + (kPanelAlignment - past) % kPanelAlignment);
  });
}

// A panel of 64 rows, copied by the threads.
void CopyPanel(const Tensor16& rows, std::byte* panel) {
  for (size_t i = threadIdx.x; i < kRows * 8; i += 128) {
    CopyChunkAsync(reinterpret_cast<uint16_t*>(panel) + PanelOffset(kRows, i / 8, i % 8),
                   &rows.bits[i * 8], true);
  }
  CommitCopies();
  WaitForCopies<0>();
}

// c (+)= the product of columns 16 to 31 of the panel with themselves.
void Multiply(std::byte* panel, float (&c)[32], bool accumulate = false) {
  const uint64_t operand = OperandAfter(OperandOf(SharedAddress(panel)), 32);
  BeginProducts();
  MultiplyAdd64<f16>(c, operand, operand, accumulate);
  CommitProducts();
}

// As the threads of a block have a product's result: element i of lane 4 r + k of warp w.
float Element(const Tensor16& rows, size_t thread, size_t i) {
  const size_t row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
  const size_t column = i / 4 * 8 + thread % 4 * 2 + i % 2;
  float sum = 0;
  for (size_t k = 16; k < 32; ++k) sum += rows.values[row * 64 + k] * rows.values[column * 64 + k];
  return sum;
}

class EmulatedHopper : public testing::Test {
 protected:
  const Tensor16 rows_ = RandomTensor(DType::kF16, kRows * 64, 1);
};

TEST_F(EmulatedHopper, MultipliesPanelsAndGivesTheResultToWhoWaits) {
  RunBlock([&](std::byte* panel) {
    CopyPanel(rows_, panel);
    PublishToAsyncProxy();
    __syncthreads();
    float c[32] = {}, d[32] = {};
    Multiply(panel, c);
    Multiply(panel, c, true);
    Multiply(panel, d);
    EXPECT_TRUE(std::isnan(c[0])) << "before it was waited for";
    WaitForProducts<1>(c);
    EXPECT_TRUE(std::isnan(d[31])) << "a later group";
    WaitForProducts<0>(d);
    for (size_t i = 0; i < 32; ++i) {
      const float expected = Element(rows_, threadIdx.x, i);
      ASSERT_NEAR(c[i], 2 * expected, 1e-3);
      ASSERT_NEAR(d[i], expected, 1e-3);
    }
  });
}

TEST_F(EmulatedHopper, SeesOperandsThatWereNotPublished) {
  EXPECT_DEATH(RunBlock([&](std::byte* panel) {
                 CopyPanel(rows_, panel);
                 __syncthreads();
                 float c[32] = {};
                 Multiply(panel, c);
                 WaitForProducts<0>(c);
               }),
               "not published");
}

TEST_F(EmulatedHopper, CopiesBoxesInTheOrderOfPanelsWithZerosPastTheEnd) {
  const TensorMap map = *MakeTensorMap(
      {.data = rows_.bits.data(), .dims = {64, 5, 3}, .strides = {64, 640}, .box_rows = {4, 2}});
  RunBlock([&](std::byte* panel) {
    auto& barrier = *reinterpret_cast<SharedBarrier*>(panel + 1024);
    const auto* elements = reinterpret_cast<const uint16_t*>(panel);
    if (threadIdx.x == 0) {
      Init(barrier, 1);
      PublishToAsyncProxy();
      ArriveAndExpect(barrier, 1024);
      CopyBoxAsync(panel, map, 0, 2, 1, barrier);
    }
    __syncthreads();
    EXPECT_EQ(elements[threadIdx.x], 0xffff) << "before it was waited for";
    __syncthreads();
    WaitForPhase(barrier, 0);
    for (size_t row = 0; row < 8; ++row) {
      const size_t i1 = 2 + row % 4, i2 = 1 + row / 4;
      for (size_t i0 = 0; i0 < 64; ++i0) {
        const uint16_t expected = i1 < 5 ? rows_.bits[i2 * 640 + i1 * 64 + i0] : 0;
        ASSERT_EQ(elements[PanelOffset(8, row, i0 / 8) + i0 % 8], expected) << row << ", " << i0;
      }
    }
  });
}

TEST_F(EmulatedHopper, EndsWhereAPhaseNeverDoes) {
  const auto wait_for = [&](uint32_t num_bytes) {
    const TensorMap map = *MakeTensorMap({.data = rows_.bits.data(),
                                          .dims = {64, 64, 1},
                                          .strides = {64, 4096},
                                          .box_rows = {8, 1}});
    RunBlock([&](std::byte* panel) {
      auto& barrier = *reinterpret_cast<SharedBarrier*>(panel + 1024);
      if (threadIdx.x == 0) {
        Init(barrier, 1);
        PublishToAsyncProxy();
        ArriveAndExpect(barrier, num_bytes);
        CopyBoxAsync(panel, map, 0, 0, 0, barrier);
      }
      __syncthreads();
      WaitForPhase(barrier, 0);
    });
  };
  wait_for(1024);
  EXPECT_DEATH(wait_for(1040), "wait for what never comes");
  EXPECT_DEATH(wait_for(1008), "more bytes than expected");
}

TEST_F(EmulatedHopper, SeesAStageThatIsGivenBackBeforeItsProductsHaveEnded) {
  const TensorMap map = *MakeTensorMap(
      {.data = rows_.bits.data(), .dims = {64, 64, 1}, .strides = {64, 4096}, .box_rows = {64, 1}});
  const auto first_element = [&](bool wait_first) {
    float result = 0;
    RunBlock([&](std::byte* panel) {
      auto* barriers = reinterpret_cast<SharedBarrier*>(panel + kRows * 128);
      if (threadIdx.x == 0) {
        for (int i : {0, 1}) Init(barriers[i], i == 0 ? 1 : 128);
        PublishToAsyncProxy();
        ArriveAndExpect(barriers[0], kRows * 128);
        CopyBoxAsync(panel, map, 0, 0, 0, barriers[0]);
      }
      __syncthreads();
      WaitForPhase(barriers[0], 0);
      float c[32] = {};
      Multiply(panel, c);
      if (wait_first) WaitForProducts<0>(c);
      Arrive(barriers[1]);
      if (threadIdx.x == 0) {
        WaitForPhase(barriers[1], 0);
        ArriveAndExpect(barriers[0], kRows * 128);
        CopyBoxAsync(panel, map, 0, 0, 0, barriers[0]);
      }
      WaitForProducts<0>(c);
      WaitForPhase(barriers[0], 1);
      if (threadIdx.x == 0) result = c[0];
    });
    return result;
  };
  EXPECT_NEAR(first_element(true), Element(rows_, 0, 0), 1e-3);
  EXPECT_TRUE(std::isnan(first_element(false)));
}

}  // namespace
}  // namespace kvship::cuda
