// Backend is what the CPU's operations (kernels/cpu) run on: a thread pool and scratch memory. Each
// operation takes it as its first argument and is complete when it returns. One thread at a time
// may issue operations. (The operations of kernels/cuda take a stream instead.)
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
  // Runs operations on `num_threads` threads, the calling thread included.
  explicit Backend(size_t num_threads) : threads_(num_threads) {}

  ThreadPool& threads() { return threads_; }

  // Uninitialised scratch memory for one operation, aligned to 64 bytes. The next operation may
  // overwrite or move it. It is kept between operations, because fresh pages cost more than many
  // operations.
  std::byte* Scratch(size_t num_bytes) {
    scratch_.GrowTo(num_bytes);
    return scratch_.data();
  }

 private:
  ThreadPool threads_;
  Buffer scratch_;
};

}  // namespace kvship
