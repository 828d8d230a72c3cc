// SnapKV: the prompt's last W queries vote, and votes are smoothed over neighbouring tokens so that
// a phrase is kept whole.
#pragma once

#include "compress/scorer.h"

namespace kvship {

class SnapKvScorer final : public Scorer {
 public:
  SnapKvScorer(const CompressionOptions& options, const KvShape& shape)
      : options_(options), shape_(shape) {}

  //   scores[h, i] = pool( mean or sum over the window of softmax(q.k / sqrt(D)) ), reduced over
  //   h's Hq/H query heads
  //
  // Shapes: scores [H, T - W] f32, or [Hq, T - W] with GroupReduce::kNone. The softmax runs over
  // all T keys, causal inside the window, or over the T - W before it. Source: SnapKV, arXiv
  // 2404.14469, section 4; the group mean follows NVIDIA/kvpress.
  absl::Status Score(Backend& backend, const ScorerInput& input, TensorView scores) override;

  size_t num_scored(size_t prompt_tokens) const override { return prompt_tokens - options_.window; }

 private:
  absl::Status PrefixVotes(Backend& backend, const ScorerInput& input, TensorView votes);

  const CompressionOptions options_;
  const KvShape shape_;
};

}  // namespace kvship
