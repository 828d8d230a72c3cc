#include "compress/cuda/compact_device_layer.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "base/crc32c.h"
#include "base/status_macros.h"
#include "kernels/cuda/frames.h"

namespace kvship::cuda {
namespace {

// Pages are read and written in pieces of 16 bytes.
size_t Aligned(size_t num_bytes) { return (num_bytes + 15) / 16 * 16; }

size_t OffsetBytes(const KvPlan& plan) { return Aligned((plan.num_heads + 1) * sizeof(int32_t)); }
size_t MassBytes(const KvPlan& plan) { return Aligned(2 * plan.num_heads * sizeof(float)); }
constexpr size_t kRemainderBytes = kMostLaidFrames * kFrameTiles * sizeof(uint32_t);

}  // namespace

CompactDeviceLayer::Parts CompactDeviceLayer::PartsOf(const KvPlan& plan, size_t layer) {
  const size_t num_positions = plan.layer_tokens[layer] - plan.num_heads * plan.tail_tokens;
  Parts parts;
  parts.num_pages = plan.layer_pages(layer);
  parts.masses = Aligned(num_positions * sizeof(int32_t));
  parts.tails = parts.masses + MassBytes(plan);
  parts.pages =
      parts.tails + plan.layer_tail_pages() * PageBytes(plan.window_format, plan.head_dim);
  parts.end = parts.pages + parts.num_pages * PageBytes(plan.format, plan.head_dim);
  return parts;
}

BufferSizes<CompactDeviceLayer> CompactDeviceLayer::Sizes(const KvPlan& plan) {
  using Self = CompactDeviceLayer;
  size_t most_bytes = 0;
  for (size_t layer = 0; layer < plan.layer_tokens.size(); ++layer) {
    most_bytes = std::max(most_bytes, PartsOf(plan, layer).end);
  }
  const size_t row = plan.num_heads + 1;
  const size_t num_rows = plan.bounded ? 1 : plan.layer_tokens.size();
  const size_t num_tail_numbers =
      plan.tail_tokens > 0 ? row + plan.num_heads * plan.tail_tokens : 0;
  return {{&Self::memory_, most_bytes},
          {&Self::remainders_, kRemainderBytes},
          {&Self::offsets_, num_rows * row * sizeof(int32_t)},
          {&Self::tail_tokens_, num_tail_numbers * sizeof(int32_t)}};
}

absl::StatusOr<CompactDeviceLayer> CompactDeviceLayer::Create(const KvPlan& plan,
                                                              cudaStream_t stream) {
  CompactDeviceLayer layer(plan, stream);
  layer.most_copied_bytes_ = OffsetBytes(plan) + MassBytes(plan) + kRemainderBytes;
  for (size_t l = 0; l < plan.layer_tokens.size(); ++l) {
    const Parts parts = PartsOf(plan, l);
    layer.most_copied_bytes_ = std::max(layer.most_copied_bytes_,
                                        OffsetBytes(plan) + parts.end - layer.first_copied(parts));
  }
  RETURN_IF_ERROR(CreateBuffers(Sizes(plan), layer));
  layer.Begin(0);
  if (!plan.bounded) RETURN_IF_ERROR(layer.FillOffsets());
  if (plan.tail_tokens > 0) RETURN_IF_ERROR(layer.FillTailTokens());
  if (plan.keeps_whole) RETURN_IF_ERROR(layer.FillWhole());
  return layer;
}

void CompactDeviceLayer::Begin(size_t layer) {
  layer_ = layer;
  parts_ = PartsOf(plan_, layer);
}

const std::vector<int32_t>& CompactDeviceLayer::Keep(std::vector<int32_t> numbers) {
  return sources_.emplace_back(std::move(numbers));
}

absl::Status CompactDeviceLayer::Fill(int32_t* to, const std::vector<int32_t>& numbers) {
  return CudaStatus(cudaMemcpyAsync(to, numbers.data(), numbers.size() * sizeof(int32_t),
                                    cudaMemcpyHostToDevice, stream_),
                    "copy of a plan's numbers");
}

absl::Status CompactDeviceLayer::FillOffsets() {
  std::vector<int32_t> offsets;
  for (size_t tokens : plan_.layer_tokens) {
    const size_t per_head = tokens / plan_.num_heads - plan_.tail_tokens;
    for (size_t h = 0; h <= plan_.num_heads; ++h) {
      offsets.push_back(static_cast<int32_t>(h * per_head));
    }
  }
  return Fill(offsets_.as<int32_t>(), Keep(std::move(offsets)));
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
  return Fill(tail_tokens_.as<int32_t>(), Keep(std::move(tokens)));
}

absl::Status CompactDeviceLayer::FillWhole() {
  std::vector<int32_t> all(plan_.prompt_tokens - plan_.tail_tokens);
  std::iota(all.begin(), all.end(), 0);
  const std::vector<int32_t>& head = Keep(std::move(all));
  for (size_t h = 0; h < plan_.num_heads; ++h) {
    RETURN_IF_ERROR(Fill(positions() + h * head.size(), head));
  }
  whole_masses_.assign(2 * plan_.num_heads, 1.0f);
  return CudaStatus(
      cudaMemcpyAsync(masses(), whole_masses_.data(), 2 * plan_.num_heads * sizeof(float),
                      cudaMemcpyHostToDevice, stream_),
      "copy of masses");
}

int32_t* CompactDeviceLayer::offsets() const {
  return offsets_.as<int32_t>() + (plan_.bounded ? 0 : layer_ * (plan_.num_heads + 1));
}

absl::Status CompactDeviceLayer::Copy(std::byte* to, const void* from, size_t num_bytes) const {
  return CudaStatus(cudaMemcpyAsync(to, from, num_bytes, cudaMemcpyDeviceToHost, stream_),
                    "copy of a layer");
}

absl::Status CompactDeviceLayer::CopyToHost(std::byte* copied) const {
  const size_t first = first_copied(parts_);
  RETURN_IF_ERROR(Copy(copied, offsets(), (plan_.num_heads + 1) * sizeof(int32_t)));
  return Copy(copied + OffsetBytes(plan_), memory_.data() + first, parts_.end - first);
}

CompactLayer CompactDeviceLayer::Heads(const std::byte* offsets, const std::byte* masses) const {
  const size_t heads = plan_.num_heads;
  const auto* const shares = reinterpret_cast<const float*>(masses);
  CompactLayer layer;
  layer.layer = layer_;
  int32_t before = 0;
  for (const int32_t end : std::span(reinterpret_cast<const int32_t*>(offsets) + 1, heads)) {
    const int32_t own = end - std::exchange(before, end);
    layer.kept_tokens.push_back(static_cast<uint32_t>(own) +
                                static_cast<uint32_t>(plan_.tail_tokens));
  }
  layer.retained_mass.assign(shares, shares + heads);
  layer.chosen_mass.assign(shares + heads, shares + 2 * heads);
  return layer;
}

CompactLayer CompactDeviceLayer::FromCopy(const std::byte* copied) const {
  // Parts lie as in device memory.
  const std::byte* const parts = copied + OffsetBytes(plan_) - first_copied(parts_);
  CompactLayer layer = Heads(copied, parts + parts_.masses);
  const LayerLayout layout = LayoutOf(plan_, layer.kept_tokens);
  layer.bytes = Buffer(layout.num_bytes);
  std::byte* const bytes = layer.bytes.data();
  const std::byte* positions = parts;
  const std::byte* pages = parts + parts_.pages;
  for (const HeadBytes& head : layout.heads) {
    const size_t position_bytes = head.num_positions * sizeof(int32_t);
    const size_t page_bytes = head.num_pages * PageBytes(plan_.format, plan_.head_dim);
    std::memcpy(bytes + head.positions_offset, positions, position_bytes);
    std::memcpy(bytes + head.pages_offset, pages, page_bytes);
    positions += position_bytes;
    pages += page_bytes;
  }
  assert(pages <= parts + parts_.end);  // no more than the plan bounds it to
  std::memcpy(bytes + layout.tails_offset, parts + parts_.tails,
              plan_.num_kv_heads * layout.tail_bytes);
  return layer;
}

size_t CompactDeviceLayer::most_frames() const {
  // Without the room that aligns positions, and positions that are not sent.
  const size_t most_bytes = parts_.end - parts_.tails + (plan_.keeps_whole ? 0 : parts_.masses);
  const size_t num_frames = NumFrames(most_bytes);
  return num_frames <= kMostLaidFrames && plan_.num_heads <= kMostLaidHeads ? num_frames : 0;
}

absl::Status CompactDeviceLayer::LayIntoFrames(std::span<const FrameStaging::BlockPtr> blocks,
                                               std::byte* copied) const {
  LayFramesArgs args = {
      .offsets = offsets(),
      .positions = plan_.keeps_whole ? nullptr : positions(),
      .pages = pages(),
      .tails = tails(),
      .num_heads = plan_.num_heads,
      .page_bytes = PageBytes(plan_.format, plan_.head_dim),
      .tail_bytes = parts_.pages - parts_.tails,
      .num_frames = blocks.size(),
      .remainders = remainders_.as<uint32_t>(),
  };
  for (size_t i = 0; i < blocks.size(); ++i) args.frames[i] = blocks[i]->device();
  RETURN_IF_ERROR(LayFrames(stream_, args));
  RETURN_IF_ERROR(Copy(copied, offsets(), (plan_.num_heads + 1) * sizeof(int32_t)));
  copied += OffsetBytes(plan_);
  RETURN_IF_ERROR(Copy(copied, masses(), MassBytes(plan_)));
  return Copy(copied + MassBytes(plan_), remainders_.data(),
              blocks.size() * kFrameTiles * sizeof(uint32_t));
}

CompactLayer CompactDeviceLayer::FromFrames(std::span<const FrameStaging::BlockPtr> blocks,
                                            const std::byte* copied) const {
  const std::byte* const masses = copied + OffsetBytes(plan_);
  CompactLayer layer = Heads(copied, masses);
  const auto* remainders = reinterpret_cast<const uint32_t*>(masses + MassBytes(plan_));
  size_t left = LayoutOf(plan_, layer.kept_tokens).num_bytes;
  for (const FrameStaging::BlockPtr& block : blocks) {
    if (left == 0) break;
    const size_t num_bytes = std::min(left, kMostFrameBytes);
    const std::span tiles(remainders, NumCrc32cTiles(num_bytes));
    layer.frames.push_back(
        {block, static_cast<uint32_t>(num_bytes), Crc32cOfTiles(tiles, num_bytes)});
    remainders += kFrameTiles;
    left -= num_bytes;
  }
  assert(left == 0);
  return layer;
}

}  // namespace kvship::cuda
