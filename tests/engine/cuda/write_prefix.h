// A compact layer of a GPU on the way to pages there, without a wire.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kv/sequence.h"

namespace kvship::cuda {

// Enqueues copies of a layer's prefix pages, head after head as they cross the wire, from device or
// pinned host memory to the pages of `cache`, whose layer `layer` has begun.
inline absl::Status WritePrefix(cudaStream_t stream, const SequenceCache& cache, size_t layer,
                                const std::byte* pages) {
  const size_t page_bytes = PageBytes(cache.plan().format, cache.plan().head_dim);
  std::vector<kvship::PagedHead> heads;
  cache.AppendPagedHeads(layer, 0, &heads);
  std::vector<std::byte*> targets;
  for (const kvship::PagedHead& head : heads) {
    for (const std::byte* page : head.prefix_pages) targets.push_back(const_cast<std::byte*>(page));
  }
  // Pages that lie side by side on both sides go in one copy.
  for (size_t begin = 0, end = 0; begin < targets.size(); begin = end) {
    end = begin + 1;
    while (end < targets.size() && targets[end] == targets[end - 1] + page_bytes) ++end;
    RETURN_IF_ERROR(
        CudaStatus(cudaMemcpyAsync(targets[begin], pages + begin * page_bytes,
                                   (end - begin) * page_bytes, cudaMemcpyDefault, stream),
                   "copy of pages"));
  }
  return absl::OkStatus();
}

}  // namespace kvship::cuda
