// Device memory for a KvPool, and two ways into it: bytes as they come from the wire, and compact
// layers that are on the device.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/cuda/buffer.h"
#include "kernels/cuda/stream.h"
#include "kv/pool.h"
#include "kv/sequence.h"

namespace kvship::cuda {

// The memory of a KvPool on one GPU. Thread safe.
class PoolMemory {
 public:
  // ResourceExhausted, naming the bytes, if the GPU has no more.
  static absl::StatusOr<std::unique_ptr<PoolMemory>> Create(int ordinal, size_t num_bytes);

  std::span<std::byte> bytes() const { return {memory_.data(), memory_.num_bytes()}; }

  // KvPool::Writer: the bytes have arrived when it returns.
  absl::Status Write(std::span<const KvPool::PageBytes> copies) const;

 private:
  explicit PoolMemory(int ordinal) : ordinal_(ordinal) {}

  const int ordinal_;
  DeviceBuffer memory_;
  Stream stream_;
};

// Enqueues copies of a layer's prefix pages, head after head as they cross the wire, from device or
// pinned host memory to the pages of `cache`, whose layer `layer` has begun.
absl::Status WritePrefix(cudaStream_t stream, const SequenceCache& cache, size_t layer,
                         const std::byte* pages);

}  // namespace kvship::cuda
