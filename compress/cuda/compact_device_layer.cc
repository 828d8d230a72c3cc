#include "compress/cuda/compact_device_layer.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <numeric>
#include <span>
#include <vector>

#include "base/status_macros.h"

namespace kvship::cuda {
namespace {

// Pages are read and written in pieces of 16 bytes.
size_t Aligned(size_t num_bytes) { return (num_bytes + 15) / 16 * 16; }

size_t OffsetBytes(const KvPlan& plan) { return Aligned((plan.num_heads + 1) * sizeof(int32_t)); }

}  // namespace

CompactDeviceLayer::Parts CompactDeviceLayer::PartsOf(size_t layer) const {
  const size_t heads = plan_.num_heads;
  const size_t num_positions = plan_.layer_tokens[layer] - heads * plan_.tail_tokens;
  Parts parts;
  parts.num_pages = plan_.layer_pages(layer);
  parts.masses = Aligned(num_positions * sizeof(int32_t));
  parts.tails = parts.masses + Aligned(2 * heads * sizeof(float));
  parts.pages =
      parts.tails + plan_.layer_tail_pages() * PageBytes(plan_.window_format, plan_.head_dim);
  parts.end = parts.pages + parts.num_pages * PageBytes(plan_.format, plan_.head_dim);
  return parts;
}

absl::StatusOr<CompactDeviceLayer> CompactDeviceLayer::Create(const KvPlan& plan,
                                                              cudaStream_t stream) {
  CompactDeviceLayer layer(plan, stream);
  size_t most_bytes = 0;
  for (size_t l = 0; l < plan.layer_tokens.size(); ++l) {
    const Parts parts = layer.PartsOf(l);
    most_bytes = std::max(most_bytes, parts.end);
    layer.most_copied_bytes_ = std::max(layer.most_copied_bytes_,
                                        OffsetBytes(plan) + parts.end - layer.first_copied(parts));
  }
  ASSIGN_OR_RETURN(layer.memory_, DeviceBuffer::Create(most_bytes));
  layer.Begin(0);
  RETURN_IF_ERROR(layer.FillOffsets());
  if (plan.tail_tokens > 0) RETURN_IF_ERROR(layer.FillTailTokens());
  if (plan.keeps_whole) RETURN_IF_ERROR(layer.FillWhole());
  return layer;
}

void CompactDeviceLayer::Begin(size_t layer) {
  layer_ = layer;
  parts_ = PartsOf(layer);
}

absl::Status CompactDeviceLayer::Fill(int32_t* to, const std::vector<int32_t>& numbers) {
  return CudaStatus(cudaMemcpyAsync(to, numbers.data(), numbers.size() * sizeof(int32_t),
                                    cudaMemcpyHostToDevice, stream_),
                    "copy of a plan's numbers");
}

absl::Status CompactDeviceLayer::FillOffsets() {
  const size_t row = plan_.num_heads + 1;
  const size_t num_rows = plan_.bounded ? 1 : plan_.layer_tokens.size();
  ASSIGN_OR_RETURN(offsets_, DeviceBuffer::Create(num_rows * row * sizeof(int32_t)));
  if (plan_.bounded) return absl::OkStatus();
  std::vector<int32_t> offsets;
  for (size_t tokens : plan_.layer_tokens) {
    const size_t per_head = tokens / plan_.num_heads - plan_.tail_tokens;
    for (size_t h = 0; h < row; ++h) offsets.push_back(static_cast<int32_t>(h * per_head));
  }
  return Fill(offsets_.as<int32_t>(), offsets);
}

absl::Status CompactDeviceLayer::FillTailTokens() {
  std::vector<int32_t> tokens;
  for (size_t h = 0; h <= plan_.num_heads; ++h) {
    tokens.push_back(static_cast<int32_t>(h * plan_.tail_tokens));
  }
  for (size_t h = 0; h < plan_.num_heads; ++h) {
    for (size_t i = plan_.prompt_tokens - plan_.tail_tokens; i < plan_.prompt_tokens; ++i) {
      tokens.push_back(static_cast<int32_t>(i));
    }
  }
  ASSIGN_OR_RETURN(tail_tokens_, DeviceBuffer::Create(tokens.size() * sizeof(int32_t)));
  return Fill(tail_tokens_.as<int32_t>(), tokens);
}

absl::Status CompactDeviceLayer::FillWhole() {
  std::vector<int32_t> head(plan_.prompt_tokens - plan_.tail_tokens);
  std::iota(head.begin(), head.end(), 0);
  for (size_t h = 0; h < plan_.num_heads; ++h) {
    RETURN_IF_ERROR(Fill(positions() + h * head.size(), head));
  }
  const std::vector<float> all(2 * plan_.num_heads, 1.0f);
  return CudaStatus(cudaMemcpyAsync(masses(), all.data(), all.size() * sizeof(float),
                                    cudaMemcpyHostToDevice, stream_),
                    "copy of masses");
}

int32_t* CompactDeviceLayer::offsets() const {
  return offsets_.as<int32_t>() + (plan_.bounded ? 0 : layer_ * (plan_.num_heads + 1));
}

absl::Status CompactDeviceLayer::CopyToHost(std::byte* copied) const {
  const size_t first = first_copied(parts_);
  RETURN_IF_ERROR(
      CudaStatus(cudaMemcpyAsync(copied, offsets(), (plan_.num_heads + 1) * sizeof(int32_t),
                                 cudaMemcpyDeviceToHost, stream_),
                 "copy of a layer's offsets"));
  return CudaStatus(cudaMemcpyAsync(copied + OffsetBytes(plan_), memory_.data() + first,
                                    parts_.end - first, cudaMemcpyDeviceToHost, stream_),
                    "copy of a layer");
}

CompactLayer CompactDeviceLayer::FromCopy(const std::byte* copied) const {
  const size_t heads = plan_.num_heads;
  const std::span offsets(reinterpret_cast<const int32_t*>(copied), heads + 1);
  // Parts lie as in device memory.
  const std::byte* const parts = copied + OffsetBytes(plan_) - first_copied(parts_);
  const auto* masses = reinterpret_cast<const float*>(parts + parts_.masses);
  CompactLayer layer;
  layer.layer = layer_;
  for (size_t h = 0; h < heads; ++h) {
    layer.kept_tokens.push_back(static_cast<uint32_t>(offsets[h + 1] - offsets[h]) +
                                static_cast<uint32_t>(plan_.tail_tokens));
  }
  layer.retained_mass.assign(masses, masses + heads);
  layer.chosen_mass.assign(masses + heads, masses + 2 * heads);
  const LayerLayout layout = LayoutOf(plan_, layer.kept_tokens);
  layer.bytes = Buffer(layout.num_bytes);
  std::byte* const bytes = layer.bytes.data();
  const auto* positions = reinterpret_cast<const int32_t*>(parts);
  const std::byte* pages = parts + parts_.pages;
  for (size_t h = 0; h < heads; ++h) {
    const HeadBytes& head = layout.heads[h];
    if (head.num_positions > 0) {
      std::memcpy(bytes + head.positions_offset, positions + offsets[h],
                  head.num_positions * sizeof(int32_t));
    }
    const size_t page_bytes = head.num_pages * PageBytes(plan_.format, plan_.head_dim);
    std::memcpy(bytes + head.pages_offset, pages, page_bytes);
    pages += page_bytes;
  }
  assert(pages <= parts + parts_.end);  // no more than the plan bounds it to
  std::memcpy(bytes + layout.tails_offset, parts + parts_.tails,
              plan_.num_kv_heads * layout.tail_bytes);
  return layer;
}

}  // namespace kvship::cuda
