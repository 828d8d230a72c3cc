// Causal attention over a prompt by cuDNN, which reaches several times the speed of the plain
// kernel of prompt_attention.h and takes the same arguments.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <map>
#include <memory>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/buffer.h"
#include "kernels/cuda/prompt_attention.h"

namespace kvship::cuda {

// Plans are made for buckets of shapes, so that prompts of any length need few of them: M is
// rounded up to a power of two, at least this.
inline constexpr size_t kLeastAttentionBucket = 128;
constexpr size_t AttentionBucket(size_t num_tokens) {
  size_t bucket = kLeastAttentionBucket;
  while (bucket < num_tokens) bucket *= 2;
  return bucket;
}

// Plans take tens of milliseconds to make and are cached. Belongs to one thread and one stream:
// plans share a workspace.
class CudnnAttention {
 public:
  // Unimplemented if this program was built without cuDNN, FailedPrecondition if it is missing.
  static absl::StatusOr<std::unique_ptr<CudnnAttention>> Create();
  ~CudnnAttention();
  CudnnAttention(const CudnnAttention&) = delete;
  CudnnAttention& operator=(const CudnnAttention&) = delete;

  // As PromptAttention(), except: q, out and lse must have room for AttentionBucket(M) rows, of
  // which those from M on may be overwritten; lse_row_stride is that bucket; lse must be given.
  // Further errors: Unimplemented if cuDNN makes no plan for it, ResourceExhausted if the device
  // has no room for the plan, Internal for anything else that cuDNN refuses.
  absl::Status Run(cudaStream_t stream, const PromptAttentionArgs& args);

 private:
  struct Plan;
  // dtype, Hq, H, D, buckets of queries and keys, strides of heads and of queries, whether lengths
  // are the buckets'.
  using Key = std::tuple<DType, size_t, size_t, size_t, size_t, size_t, size_t, size_t, bool>;

  CudnnAttention() = default;
  absl::StatusOr<Plan*> PlanFor(cudaStream_t stream, const PromptAttentionArgs& args);

  void* handle_ = nullptr;
  bool has_warned_ = false;
  DeviceBuffer lengths_;  // int32: of the queries, of the keys
  DeviceBuffer workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace kvship::cuda
