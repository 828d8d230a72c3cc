#include "bench/engine/cuda/limits.h"

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "bench/engine/cuda/stopwatch.h"
#include "kernels/cuda/cudnn_attention.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/product.h"

namespace kvship::cuda {

namespace {

absl::Status BenchProduct(cudaStream_t stream) {
  constexpr size_t kRows = 8192, kRepeats = 20;
  ASSIGN_OR_RETURN(auto products, Products::Create());
  std::vector<DeviceBuffer> matrices;
  for (int i = 0; i < 3; ++i) {
    ASSIGN_OR_RETURN(matrices.emplace_back(), DeviceBuffer::Create(kRows * kRows * 2));
    RETURN_IF_ERROR(FillRandom(stream, DType::kBf16, matrices.back().data(), kRows * kRows, 0.0f,
                               1.0f, static_cast<uint32_t>(i)));
  }
  Stopwatch watch(stream);
  for (size_t i = 0; i < kRepeats + 3; ++i) {
    if (i == 3) watch.Start();
    RETURN_IF_ERROR(products->Run(stream, {.x = matrices[0].data(),
                                           .weights = matrices[1].data(),
                                           .out = matrices[2].data(),
                                           .num_tokens = kRows,
                                           .rows = kRows,
                                           .cols = kRows}));
  }
  watch.Stop();
  const double operations = 2.0 * kRows * kRows * kRows * kRepeats;
  std::printf(
      "{\"bench\": \"limit\", \"what\": \"product of 8192^3, bf16\", \"tflop_per_s\": %.1f}\n",
      operations / watch.Seconds() / 1e12);
  return absl::OkStatus();
}

absl::Status BenchReading(cudaStream_t stream) {
  constexpr size_t kRepeats = 20;
  constexpr size_t kReadBytes = size_t{4} << 30;
  ASSIGN_OR_RETURN(const DeviceBuffer read, DeviceBuffer::Create(kReadBytes + sizeof(uint32_t)));
  Stopwatch watch(stream);
  for (size_t i = 0; i < kRepeats + 3; ++i) {
    if (i == 3) watch.Start();
    RETURN_IF_ERROR(ReadMemory(stream, read.data(), kReadBytes,
                               reinterpret_cast<uint32_t*>(read.data() + kReadBytes)));
  }
  watch.Stop();
  std::printf("{\"bench\": \"limit\", \"what\": \"reading memory\", \"gb_per_s\": %.1f}\n",
              static_cast<double>(kReadBytes) * kRepeats / watch.Seconds() / 1e9);
  return absl::OkStatus();
}

absl::Status BenchAttention(cudaStream_t stream) {
  Stopwatch watch(stream);
  auto cudnn = CudnnAttention::Create();
  if (!cudnn.ok()) {
    std::printf("{\"bench\": \"limit\", \"what\": \"attention\", \"error\": \"%s\"}\n",
                std::string(cudnn.status().message()).c_str());
    return absl::OkStatus();
  }
  constexpr size_t kQueryHeads = 32, kKvHeads = 8, kHeadDim = 128;
  for (const auto& [first, queries] : {std::pair<size_t, size_t>{0, 4096},
                                       {0, 16384},
                                       {0, 32768},
                                       {24576, 8192},
                                       {122880, 8192},
                                       {16384, 8192}}) {
    const size_t keys = first + queries, heads = kQueryHeads + 2 * kKvHeads;
    ASSIGN_OR_RETURN(const DeviceBuffer q,
                     DeviceBuffer::Create(AttentionBucket(queries) * heads * kHeadDim * 2));
    ASSIGN_OR_RETURN(const DeviceBuffer kv,
                     DeviceBuffer::Create(2 * keys * kKvHeads * kHeadDim * 2));
    ASSIGN_OR_RETURN(const DeviceBuffer out,
                     DeviceBuffer::Create(AttentionBucket(queries) * kQueryHeads * kHeadDim * 2));
    ASSIGN_OR_RETURN(const DeviceBuffer lse,
                     DeviceBuffer::Create(AttentionBucket(queries) * kQueryHeads * sizeof(float)));
    for (const DeviceBuffer* buffer : {&q, &kv}) {
      RETURN_IF_ERROR(
          FillRandom(stream, DType::kBf16, buffer->data(), buffer->num_bytes() / 2, 0.0f, 1.0f, 9));
    }
    const PromptAttentionArgs args = {.q = q.data(),
                                      .keys = kv.data(),
                                      .values = kv.data() + kv.num_bytes() / 2,
                                      .out = out.data(),
                                      .lse = lse.as<float>(),
                                      .num_queries = queries,
                                      .num_query_heads = kQueryHeads,
                                      .num_kv_heads = kKvHeads,
                                      .head_dim = kHeadDim,
                                      .head_stride = keys * kHeadDim,
                                      .q_row_stride = heads * kHeadDim,
                                      .lse_row_stride = AttentionBucket(queries),
                                      .first_position = first};
    constexpr size_t kRuns = 8;
    for (size_t i = 0; i < kRuns + 2; ++i) {
      if (i == 2) watch.Start();
      RETURN_IF_ERROR((*cudnn)->Run(stream, args));
    }
    watch.Stop();
    // Pairs of a query and a key that it sees, and two products of D for each.
    const double pairs = static_cast<double>(queries) * (static_cast<double>(first) + keys) / 2;
    std::printf(
        "{\"bench\": \"limit\", \"what\": \"attention\", \"first\": %zu, \"queries\": %zu, "
        "\"ms\": %.3f, \"tflop_per_s\": %.1f}\n",
        first, queries, watch.Seconds() / kRuns * 1e3,
        4.0 * pairs * kQueryHeads * kHeadDim * kRuns / watch.Seconds() / 1e12);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchLimits(cudaStream_t stream) {
  RETURN_IF_ERROR(BenchProduct(stream));
  RETURN_IF_ERROR(BenchReading(stream));
  return BenchAttention(stream);
}

}  // namespace kvship::cuda
