// What threads of a block and lanes of a warp say to each other, in the emulation of CUDA.
#pragma once

#include <bit>
#include <cstddef>

#include "tests/kernels/cuda/emulation/block.h"

// NOLINTBEGIN(bugprone-reserved-identifier)

inline void __syncthreads() { kvship::emulation::Block::Current().Meet(); }
// Blocks run one after the other: what one has written the next one sees.
inline void __threadfence() {}
inline void __syncwarp() {
  kvship::emulation::Block::Current().MeetWarp(nullptr, [](void* const*) {});
}
template <class T>
T EmulatedShuffle(T x, size_t from_lane) {
  struct Lane {
    T x;
    size_t from;
    T result;
  } lane = {x, from_lane, x};
  kvship::emulation::Block::Current().MeetWarp(&lane, [](void* const* brought) {
    for (size_t i = 0; i < kvship::emulation::kWarpThreads; ++i) {
      Lane* own = static_cast<Lane*>(brought[i]);
      if (own->from < kvship::emulation::kWarpThreads) {
        own->result = static_cast<Lane*>(brought[own->from])->x;
      }
    }
  });
  return lane.result;
}
template <class T>
T __shfl_sync(unsigned, T x, size_t from_lane) {
  return EmulatedShuffle(x, from_lane);
}
template <class T>
T __shfl_xor_sync(unsigned, T x, size_t mask) {
  return EmulatedShuffle(x, kvship::emulation::Block::Current().lane() ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T x, size_t delta) {
  return EmulatedShuffle(x, kvship::emulation::Block::Current().lane() - delta);
}
inline unsigned __ballot_sync(unsigned, bool x) {
  unsigned bits = unsigned{x} << kvship::emulation::Block::Current().lane();
  for (size_t mask = 1; mask < kvship::emulation::kWarpThreads; mask *= 2) {
    bits |= __shfl_xor_sync(0u, bits, mask);
  }
  return bits;
}
inline int __popc(unsigned bits) { return std::popcount(bits); }

// NOLINTEND(bugprone-reserved-identifier)
