// StagingReader reads as another reader does, and leaves layers in the frames that it is given, as
// a GPU that has them in its memory.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include "base/crc32c.h"
#include "base/status_macros.h"
#include "tests/prefill_service/reader_over.h"

namespace kvship {

class StagingReading final : public ReadingOver {
 public:
  using ReadingOver::ReadingOver;

  absl::StatusOr<CompactLayer> Compress(size_t prompt, const TakeFrames& take_frames) override {
    ASSIGN_OR_RETURN(CompactLayer layer, ReadingOver::Compress(prompt, take_frames));
    std::span<const std::byte> left = layer.bytes.bytes();
    auto blocks = take_frames(NumFrames(left.size()));
    for (FrameStaging::BlockPtr& block : blocks) {
      const auto own = left.first(std::min(left.size(), kMostFrameBytes));
      left = left.subspan(own.size());
      RETURN_IF_ERROR(block->Upload(own));
      layer.frames.push_back({std::move(block), static_cast<uint32_t>(own.size()), Crc32c(own)});
    }
    if (!layer.frames.empty()) layer.bytes = Buffer();
    return layer;
  }
};

class StagingReader final : public ReaderOver {
 public:
  using ReaderOver::ReaderOver;

  absl::StatusOr<std::unique_ptr<PromptReading>> Begin(
      std::span<const PrefillTask* const> tasks) override {
    ASSIGN_OR_RETURN(auto reading, ReaderOver::Begin(tasks));
    return std::make_unique<StagingReading>(std::move(reading));
  }
};

}  // namespace kvship
