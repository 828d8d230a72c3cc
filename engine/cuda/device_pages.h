// Device memory for a KvPool, and copies into it.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/cuda/buffer.h"
#include "kernels/cuda/stream.h"
#include "kv/pool.h"

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

}  // namespace kvship::cuda
