// kernels/cuda/warpgroup.cuh on the CPU. Products are computed when they are waited for, from what
// is in shared memory then, and until then their result is NaN: a missing wait shows, and so does
// an operand that was written over too early.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#include "base/float16.h"
#include "kernels/cuda/panel_layout.h"
#include "kernels/cuda/ptx.cuh"
#include "tests/kernels/cuda/emulation/operand.h"

namespace kvship::cuda {

// c (+)= a b^T of one thread.
struct PendingProduct {
  float* c;
  size_t columns;
  uint64_t a, b;
  bool accumulate;
  float (*value)(uint16_t);  // of an element

  bool SameForTheWarp(const PendingProduct& other) const {
    return columns == other.columns && a == other.a && b == other.b &&
           accumulate == other.accumulate && value == other.value;
  }
};
struct Accumulator {
  std::vector<float> values;
  size_t pending = 0;  // products
};
struct PendingProducts {
  bool fenced = false;
  std::vector<PendingProduct> open;
  std::deque<std::vector<PendingProduct>> groups;
  std::unordered_map<float*, Accumulator> accumulators;
};
inline PendingProducts& ProductsOfThisThread() {
  static std::vector<PendingProducts> products(1024);
  return products[emulation::Block::Current().thread()];
}

inline void BeginProducts() { ProductsOfThisThread().fenced = true; }
inline void CommitProducts() {
  PendingProducts& products = ProductsOfThisThread();
  products.groups.push_back(std::move(products.open));
  products.open.clear();
  products.fenced = false;
}

// The warp's 16 rows of a product; `lanes` are its threads' PendingProducts.
inline void Multiply(void* const* lanes, size_t warp, size_t index) {
  const auto own = [&](size_t lane) -> PendingProducts& {
    return *static_cast<PendingProducts*>(lanes[lane]);
  };
  const PendingProduct first = own(0).groups.front()[index];
  float left[emulation::kOperandColumns][16];
  std::vector<float> right(emulation::kOperandColumns * first.columns);
  emulation::ReadOperand(first.a, warp % 4 * 16, 16, first.value, left[0]);
  emulation::ReadOperand(first.b, 0, first.columns, first.value, right.data());
  std::vector<float> sums(16 * first.columns, 0.0f);
  for (size_t k = 0; k < emulation::kOperandColumns; ++k) {
    for (size_t row = 0; row < 16; ++row) {
      for (size_t column = 0; column < first.columns; ++column) {
        sums[row * first.columns + column] += left[k][row] * right[k * first.columns + column];
      }
    }
  }
  for (size_t lane = 0; lane < emulation::kWarpThreads; ++lane) {
    const PendingProduct& product = own(lane).groups.front()[index];
    Require(product.SameForTheWarp(first), "a warp's threads multiply different operands");
    Accumulator& accumulator = own(lane).accumulators.at(product.c);
    for (size_t i = 0; i < product.columns / 2; ++i) {
      const size_t row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      const float sum = sums[row * product.columns + column];
      float& to = accumulator.values[i];
      to = product.accumulate ? to + sum : sum;
    }
    --accumulator.pending;
  }
}

template <int kPending>
void WaitForProducts() {
  const size_t warp = emulation::Block::Current().thread() / emulation::kWarpThreads;
  PendingProducts& products = ProductsOfThisThread();
  emulation::Block::Current().MeetWarp(&products, [warp](void* const* lanes) {
    const auto groups = [&](size_t lane) -> auto& {
      return static_cast<PendingProducts*>(lanes[lane])->groups;
    };
    while (groups(0).size() > kPending) {
      for (size_t i = 0; i < groups(0).front().size(); ++i) Multiply(lanes, warp, i);
      for (size_t lane = 0; lane < emulation::kWarpThreads; ++lane) groups(lane).pop_front();
    }
  });
  std::erase_if(products.accumulators, [](const auto& entry) {
    const auto& [c, accumulator] = entry;
    if (accumulator.pending > 0) return false;
    std::copy(accumulator.values.begin(), accumulator.values.end(), c);
    return true;
  });
}
template <int kPending, class Scores>
void WaitForProducts(Scores&) {
  WaitForProducts<kPending>();
}

template <class T, size_t kElements>
void StartProduct(float (&c)[kElements], uint64_t a, uint64_t b, bool accumulate) {
  PendingProducts& products = ProductsOfThisThread();
  Require(products.fenced, "a product that does not follow BeginProducts()");
  Accumulator& accumulator = products.accumulators[c];
  if (accumulator.pending++ == 0) accumulator.values.assign(c, c + kElements);
  std::fill(c, c + kElements, NAN);
  products.open.push_back(
      {c, 2 * kElements, a, b, accumulate, [](uint16_t bits) { return ToFloat(T{bits}); }});
}
template <class T>
void MultiplyAdd64(float (&c)[32], uint64_t a, uint64_t b, bool accumulate) {
  StartProduct<T>(c, a, b, accumulate);
}
template <class T>
void MultiplyAdd128(float (&c)[64], uint64_t a, uint64_t b, bool accumulate) {
  StartProduct<T>(c, a, b, accumulate);
}

}  // namespace kvship::cuda
