// kernels/cuda/ptx.cuh on the CPU, found before the real one where kernels are emulated. Copies
// take effect when they are waited for and not before, and until then their place holds NaN: a
// missing wait shows.
#pragma once

#include <deque>
#include <vector>

#include "base/float16.h"
#include "tests/kernels/cuda/emulation/block.h"
#include "tests/kernels/cuda/emulation/cuda_runtime.h"

namespace kvship::cuda {

inline std::byte* DynamicSharedMemory() { return emulation::Block::Current().shared(); }

inline uint32_t SharedAddress(const void* shared) {
  return emulation::Block::Current().SharedAddress(shared);
}

inline void WaitForTheKernelBefore() {}

struct PendingCopy {
  void* shared;
  const void* global;
  size_t num_bytes;
};
struct PendingCopies {
  std::vector<PendingCopy> open;
  std::deque<std::vector<PendingCopy>> groups;
};
inline PendingCopies& CopiesOfThisThread() {
  static std::vector<PendingCopies> copies(1024);
  return copies[emulation::Block::Current().thread()];
}

using emulation::Require;

inline void CopyPartAsync(void* shared, const void* global, int num_bytes) {
  constexpr int kChunkBytes = 16;
  const emulation::Block& block = emulation::Block::Current();
  const std::ptrdiff_t offset = static_cast<std::byte*>(shared) - DynamicSharedMemory();
  Require(offset >= 0 && offset + kChunkBytes <= static_cast<ptrdiff_t>(block.shared_bytes()),
          "a copy beyond shared memory");
  Require(num_bytes >= 0 && num_bytes <= kChunkBytes, "a copy of more than a chunk");
  Require(offset % kChunkBytes == 0, "a copy to an odd place of shared memory");
  Require(reinterpret_cast<uintptr_t>(global) % kChunkBytes == 0, "a copy from an odd address");
  std::memset(shared, 0xff, kChunkBytes);
  CopiesOfThisThread().open.push_back({shared, global, static_cast<size_t>(num_bytes)});
}
inline void CopyChunkAsync(void* shared, const void* global, bool valid) {
  CopyPartAsync(shared, global, valid ? 16 : 0);
}
inline void CommitCopies() {
  PendingCopies& copies = CopiesOfThisThread();
  copies.groups.push_back(std::move(copies.open));
  copies.open.clear();
}
template <int kPending>
void WaitForCopies() {
  auto& groups = CopiesOfThisThread().groups;
  for (; groups.size() > kPending; groups.pop_front()) {
    for (const PendingCopy& copy : groups.front()) {
      std::memset(copy.shared, 0, 16);
      if (copy.num_bytes > 0) std::memcpy(copy.shared, copy.global, copy.num_bytes);
      emulation::Block::Current().Wrote(copy.shared);
    }
  }
}
inline void PublishToAsyncProxy() { emulation::Block::Current().Publish(); }

// Lane l gets elements 2 (l % 4) and the next of row l / 4 of each matrix, or of its transpose.
template <bool kTransposed>
void EmulateLoadMatrices(uint32_t (&r)[4], const void* row) {
  struct Lane {
    const uint16_t* row;
    uint32_t* r;
  } lane = {static_cast<const uint16_t*>(row), r};
  emulation::Block::Current().MeetWarp(&lane, [](void* const* brought) {
    for (size_t l = 0; l < emulation::kWarpThreads; ++l) {
      for (size_t m = 0; m < 4; ++m) {
        uint32_t pair = 0;
        for (size_t e = 0; e < 2; ++e) {
          const size_t i = l / 4, j = l % 4 * 2 + e;
          const Lane* source = static_cast<const Lane*>(brought[m * 8 + (kTransposed ? j : i)]);
          pair |= uint32_t{source->row[kTransposed ? i : j]} << (16 * e);
        }
        static_cast<Lane*>(brought[l])->r[m] = pair;
      }
    }
  });
}
inline void LoadMatrices(uint32_t (&r)[4], const void* row) { EmulateLoadMatrices<false>(r, row); }
inline void LoadMatricesTransposed(uint32_t (&r)[4], const void* row) {
  EmulateLoadMatrices<true>(r, row);
}

inline uint32_t TransposeMatrix(uint32_t pair) {
  struct Lane {
    uint32_t pair, transposed;
  } lane = {pair, 0};
  emulation::Block::Current().MeetWarp(&lane, [](void* const* brought) {
    const auto element = [&](size_t row, size_t column) {
      return static_cast<const Lane*>(brought[row * 4 + column / 2])->pair >> (column % 2 * 16) &
             0xffffu;
    };
    for (size_t l = 0; l < emulation::kWarpThreads; ++l) {
      const size_t i = l / 4, j = l % 4 * 2;
      static_cast<Lane*>(brought[l])->transposed = element(j, i) | element(j + 1, i) << 16;
    }
  });
  return lane.transposed;
}

struct FloatPair {
  float low;
  float high;
};
template <class T>
FloatPair UnpackPair(uint32_t pair) {
  return {ToFloat(T{static_cast<uint16_t>(pair)}), ToFloat(T{static_cast<uint16_t>(pair >> 16)})};
}
inline uint16_t BitsAs(f16, float x) { return ToF16(x).bits; }
inline uint16_t BitsAs(bf16, float x) { return ToBf16(x).bits; }
template <class T>
uint32_t PackPair(float low, float high) {
  return BitsAs(T{}, low) | uint32_t{BitsAs(T{}, high)} << 16;
}

// Rounds to float in between, which decides only where that makes a tie.
template <class T>
uint32_t MultiplyAddPair(uint32_t a, uint32_t b, uint32_t c) {
  const FloatPair x = UnpackPair<T>(a), y = UnpackPair<T>(b), z = UnpackPair<T>(c);
  return PackPair<T>(std::fma(x.low, y.low, z.low), std::fma(x.high, y.high, z.high));
}

inline uint32_t MaskOr(uint32_t x, uint32_t mask, uint32_t bits) { return (x & mask) | bits; }

// The operands' places in the lanes: PTX ISA, "Matrix Fragments for mma.m16n8k16".
template <class T>
void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Lane {
    float* c;
    const uint32_t* a;
    uint32_t b[2];
  } lane = {c, a, {b0, b1}};
  emulation::Block::Current().MeetWarp(&lane, [](void* const* brought) {
    float left[16][16], right[16][8];
    for (size_t l = 0; l < emulation::kWarpThreads; ++l) {
      const Lane* own = static_cast<const Lane*>(brought[l]);
      const size_t row = l / 4, column = l % 4 * 2;
      for (size_t i = 0; i < 4; ++i) {
        const FloatPair pair = UnpackPair<T>(own->a[i]);
        float* to = &left[row + i % 2 * 8][column + i / 2 * 8];
        to[0] = pair.low;
        to[1] = pair.high;
      }
      for (size_t i = 0; i < 2; ++i) {
        const FloatPair pair = UnpackPair<T>(own->b[i]);
        right[column + i * 8][row] = pair.low;
        right[column + i * 8 + 1][row] = pair.high;
      }
    }
    for (size_t l = 0; l < emulation::kWarpThreads; ++l) {
      Lane* own = static_cast<Lane*>(brought[l]);
      for (size_t i = 0; i < 4; ++i) {
        for (size_t k = 0; k < 16; ++k) {
          own->c[i] += left[l / 4 + i / 2 * 8][k] * right[k][l % 4 * 2 + i % 2];
        }
      }
    }
  });
}

inline float Exp2(float x) { return std::exp2(x); }
inline float MinOrNan(float a, float b) { return a != a ? a : b != b ? b : std::fmin(a, b); }
inline float MaxOrNan(float a, float b) { return a != a ? a : b != b ? b : std::fmax(a, b); }
inline float QuadSum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
inline float QuadMax(float x) {
  x = std::fmax(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return std::fmax(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

}  // namespace kvship::cuda
