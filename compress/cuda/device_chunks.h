// DeviceChunks selects whole chunks of a layer's tokens on a GPU, one set for all heads: the GPU
// form of SelectChunks() in compress/selector.h. One per request; belongs to one thread and one
// stream.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "compress/cuda/compact_device_layer.h"
#include "kernels/cuda/buffer.h"
#include "kv/compression_options.h"
#include "kv/plan.h"

namespace kvship::cuda {

class DeviceChunks {
 public:
  // Bytes of device memory that one instance takes.
  static size_t BytesFor(const CompressionOptions& options, const KvPlan& plan) {
    return TotalBytes(Sizes(options, plan));
  }

  // ResourceExhausted if the device is out of memory.
  static absl::StatusOr<DeviceChunks> Create(const CompressionOptions& options, const KvPlan& plan,
                                             cudaStream_t stream);

  // Enqueues the selection for a layer into the offsets and positions of `compact`. scores [H,
  // num_scored] f32 are in device memory, rows `row_stride` elements apart. Errors: the kernels'.
  absl::Status Select(size_t layer, const float* scores, size_t num_scored, size_t row_stride,
                      const CompactDeviceLayer& compact);

 private:
  DeviceChunks(const CompressionOptions& options, const KvPlan& plan, cudaStream_t stream)
      : options_(options), plan_(plan), stream_(stream) {}

  static BufferSizes<DeviceChunks> Sizes(const CompressionOptions& options, const KvPlan& plan);

  CompressionOptions options_;
  KvPlan plan_;
  cudaStream_t stream_;
  DeviceBuffer offsets_;    // [L, 2]: one row of chosen chunks
  DeviceBuffer scores_;     // [chunks of the prompt] f32
  DeviceBuffer chosen_;     // [chunks that a layer keeps] int32
  DeviceBuffer largest_;    // workspace of ChunkScores
  DeviceBuffer workspace_;  // for TopPositions

  std::vector<int32_t> host_offsets_;  // which the copy to offsets_ may still read
};

}  // namespace kvship::cuda
