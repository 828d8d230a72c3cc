#include "prefill_service/host_prompt_reader.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "compress/compressor.h"
#include "kv/layer_needs.h"

namespace kvship {
namespace {

class HostPromptReading final : public PromptReading {
 public:
  using Compressors = std::vector<std::unique_ptr<Compressor>>;

  HostPromptReading(PrefillEngine& engine, std::span<const PrefillTask* const> tasks,
                    Compressors compressors)
      : engine_(engine),
        compressors_(std::move(compressors)),
        run_(engine, PromptsOf(tasks, compressors_)) {
    for (const PrefillTask* task : tasks) prompt_tokens_.push_back(task->tokens.size());
  }

  absl::StatusOr<Event> Step() override {
    if (!windows_vote_) {
      ASSIGN_OR_RETURN(const PrefillRun::Event event, run_.Step());
      if (event == PrefillRun::Event::kBlockDone) return Event::kBlockDone;
      windows_vote_ = true;
    }
    for (size_t i = 0; i < compressors_.size(); ++i) {
      ASSIGN_OR_RETURN(const bool voted,
                       compressors_[i]->Vote(engine_.backend(), run_.finished_layer(i)));
      if (!voted) return Event::kBlockDone;
    }
    windows_vote_ = false;
    return Event::kLayerDone;
  }

  absl::StatusOr<CompactLayer> Compress(size_t prompt, const TakeFrames&) override {
    ASSIGN_OR_RETURN(
        Compressor::Result result,
        compressors_[prompt]->Compress(engine_.backend(), run_.finished_layer(prompt)));
    return std::move(result.compact);
  }

  bool done() const override { return run_.done() && !windows_vote_; }
  double fraction() const override {
    // Only the end is 1.
    return windows_vote_ ? std::min(run_.fraction(), std::nextafter(1.0, 0.0)) : run_.fraction();
  }

  size_t reused_tokens(size_t prompt) const override { return run_.reused_tokens(prompt); }

  absl::StatusOr<Array<float>> Logits(size_t prompt) override {
    Array<float> logits(engine_.model().config.vocab_tokens);
    RETURN_IF_ERROR(run_.Logits(prompt, prompt_tokens_[prompt] - 1,
                                TensorView(logits.data(), {1, logits.size()})));
    return logits;
  }

 private:
  static std::vector<PrefillPrompt> PromptsOf(std::span<const PrefillTask* const> tasks,
                                              const Compressors& compressors) {
    std::vector<PrefillPrompt> prompts;
    for (size_t i = 0; i < tasks.size(); ++i) {
      prompts.push_back({tasks[i]->tokens, compressors[i]->needs(), tasks[i]->cache_salt});
    }
    return prompts;
  }

  PrefillEngine& engine_;
  // Of the prompts, in order.
  const Compressors compressors_;
  std::vector<size_t> prompt_tokens_;
  PrefillRun run_;
  // The layer has been computed, and windows longer than one step's votes are not through.
  bool windows_vote_ = false;
};

}  // namespace

size_t HostPromptReader::pack_tokens() const {
  // So that each expert of a mixture has some dozens of rows, for which its weights are unpacked.
  constexpr size_t kBlocksOfAMixture = 8;
  return engine_.options().block_tokens * (config().has_experts() ? kBlocksOfAMixture : 1);
}

size_t HostPromptReader::BytesFor(const PrefillTask& task) const {
  return PrefillRun::BytesFor(config(), task.tokens.size(), NeedsOf(task.compression, task.plan)) +
         Compressor::BytesFor(task.compression, ShapeOf(config()), task.plan);
}

size_t HostPromptReader::CountReusable(const PrefillTask& task) const {
  const LayerNeeds needs = NeedsOf(task.compression, task.plan);
  return engine_.prefix_cache().CountReusable(task.tokens, task.cache_salt,
                                              MostReused(task.tokens.size(), needs));
}

absl::StatusOr<std::unique_ptr<PromptReading>> HostPromptReader::Begin(
    std::span<const PrefillTask* const> tasks) {
  HostPromptReading::Compressors compressors;
  for (const PrefillTask* task : tasks) {
    ASSIGN_OR_RETURN(std::unique_ptr<Compressor> compressor,
                     Compressor::Create(task->compression, ShapeOf(config()), task->plan));
    compressors.push_back(std::move(compressor));
  }
  return std::make_unique<HostPromptReading>(engine_, tasks, std::move(compressors));
}

}  // namespace kvship
