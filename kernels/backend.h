// Backend is the CPU as the operations of kernels/cpu take it, as their first argument: a team of
// threads and memory for the length of one operation. They have finished when they return. One
// thread at a time may issue operations. (Those of kernels/cuda take a stream instead.)
#pragma once

#include <cstddef>

#include "base/buffer.h"
#include "base/thread_pool.h"

namespace kvship {

// What a product of activations and weights may round.
enum class Arithmetic {
  kFast,  // activations or weights may be rounded to 8 or 16 bits where the processor is faster at
          // that
  kFloat32,  // float32 products of float32 activations and dequantized weights
};

class Backend {
 public:
  // The CPU with a team of `num_threads`, the calling thread among them.
  explicit Backend(size_t num_threads) : threads_(num_threads) {}

  ThreadPool& threads() { return threads_; }

  // Uninitialised memory for the length of one operation, aligned to 64 bytes. The next operation
  // may overwrite or move it; it is kept from one to the next, because fresh pages cost more than
  // many operations.
  std::byte* Scratch(size_t num_bytes) {
    scratch_.GrowTo(num_bytes);
    return scratch_.data();
  }

 private:
  ThreadPool threads_;
  Buffer scratch_;
};

}  // namespace kvship
