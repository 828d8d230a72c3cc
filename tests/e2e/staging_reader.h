// StagingReader reads as another reader does, and leaves layers in the frames that it is given, as
// a GPU that has them in its memory.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/crc32c.h"
#include "base/status_macros.h"
#include "prefill_service/prompt_reader.h"

namespace kvship {

class StagingReading final : public PromptReading {
 public:
  explicit StagingReading(std::unique_ptr<PromptReading> reading) : reading_(std::move(reading)) {}

  absl::StatusOr<Event> Step() override { return reading_->Step(); }
  bool done() const override { return reading_->done(); }
  double fraction() const override { return reading_->fraction(); }
  absl::StatusOr<Array<float>> Logits(size_t prompt) override { return reading_->Logits(prompt); }

  absl::StatusOr<CompactLayer> Compress(size_t prompt, const TakeFrames& take_frames) override {
    ASSIGN_OR_RETURN(CompactLayer layer, reading_->Compress(prompt, take_frames));
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

 private:
  const std::unique_ptr<PromptReading> reading_;
};

class StagingReader final : public PromptReader {
 public:
  explicit StagingReader(PromptReader& reader) : reader_(reader) {}

  const ModelConfig& config() const override { return reader_.config(); }
  size_t pack_tokens() const override { return reader_.pack_tokens(); }
  size_t BytesFor(const PrefillTask& task) const override { return reader_.BytesFor(task); }
  absl::Status Check(const PrefillTask& task) const override { return reader_.Check(task); }
  absl::StatusOr<std::unique_ptr<PromptReading>> Begin(
      std::span<const PrefillTask* const> tasks) override {
    ASSIGN_OR_RETURN(auto reading, reader_.Begin(tasks));
    return std::make_unique<StagingReading>(std::move(reading));
  }

 private:
  PromptReader& reader_;
};

}  // namespace kvship
