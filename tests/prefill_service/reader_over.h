// A reader and a reading that do what another one does, for tests to change some of it.
#pragma once

#include <memory>
#include <span>
#include <utility>

#include "prefill_service/prompt_reader.h"

namespace kvship {

class ReadingOver : public PromptReading {
 public:
  explicit ReadingOver(std::unique_ptr<PromptReading> reading) : reading_(std::move(reading)) {}

  absl::StatusOr<Event> Step() override { return reading_->Step(); }
  absl::StatusOr<CompactLayer> Compress(size_t prompt, const TakeFrames& take_frames) override {
    return reading_->Compress(prompt, take_frames);
  }
  bool done() const override { return reading_->done(); }
  double fraction() const override { return reading_->fraction(); }
  size_t reused_tokens(size_t prompt) const override { return reading_->reused_tokens(prompt); }
  absl::StatusOr<Array<float>> Logits(size_t prompt) override { return reading_->Logits(prompt); }

 private:
  const std::unique_ptr<PromptReading> reading_;
};

class ReaderOver : public PromptReader {
 public:
  // Borrows it.
  explicit ReaderOver(PromptReader& reader) : reader_(reader) {}

  const ModelConfig& config() const override { return reader_.config(); }
  size_t pack_tokens() const override { return reader_.pack_tokens(); }
  absl::Status Check(const PrefillTask& task) const override { return reader_.Check(task); }
  size_t BytesFor(const PrefillTask& task) const override { return reader_.BytesFor(task); }
  size_t prefix_cache_bytes() const override { return reader_.prefix_cache_bytes(); }
  size_t CountReusable(const PrefillTask& task) const override {
    return reader_.CountReusable(task);
  }
  absl::StatusOr<std::unique_ptr<PromptReading>> Begin(
      std::span<const PrefillTask* const> tasks) override {
    return reader_.Begin(tasks);
  }

 private:
  PromptReader& reader_;
};

}  // namespace kvship
