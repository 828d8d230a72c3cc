// SnapKV (arXiv 2404.14469, section 4): the queries of the observation window vote, and votes are
// smoothed over neighbouring tokens so that a phrase is kept whole.
//
//   scores[h, i] = pool( mean or sum over the window of softmax(q.k / sqrt(D)) ), reduced over
//   h's Hq/H query heads
//
// for the positions i before the window. The softmax runs over all T keys, causal inside the
// window, or over those before it. The group mean follows NVIDIA/kvpress; with GroupReduce::kNone
// each query head has a set of its own, as in the paper.
#include <cstring>

#include "base/buffer.h"
#include "base/status_macros.h"
#include "compress/scorers.h"
#include "kernels/scores.h"

namespace kvship {
namespace {

class SnapKv final : public Scorer {
 public:
  SnapKv(const CompressionOptions& options, const KvShape& shape)
      : options_(options), shape_(shape) {}

  size_t num_scored(const KvPlan& plan) const override { return plan.window_begin; }

  absl::Status Score(Backend& backend, const ScorerInput& input, TensorView scores) override {
    const size_t num_scored = scores.dims[1];
    const size_t query_heads = shape_.num_query_heads;
    Array<float> votes_memory(query_heads * num_scored);
    Array<float> pooled_memory(query_heads * num_scored);
    const TensorView votes(votes_memory.data(), {query_heads, num_scored});
    const TensorView pooled(pooled_memory.data(), {query_heads, num_scored});
    RETURN_IF_ERROR(Votes(backend, input, votes));
    if (options_.group_reduce == GroupReduce::kNone) {
      return PoolScores(backend, votes, options_.pool, options_.kernel, scores);
    }
    if (options_.group_order == GroupOrder::kAfterPooling) {
      RETURN_IF_ERROR(PoolScores(backend, votes, options_.pool, options_.kernel, pooled));
      return ReduceGroups(backend, pooled, options_.group_reduce, scores);
    }
    const TensorView reduced(pooled_memory.data(), {shape_.num_kv_heads, num_scored});
    RETURN_IF_ERROR(ReduceGroups(backend, votes, options_.group_reduce, reduced));
    return PoolScores(backend, reduced, options_.pool, options_.kernel, scores);
  }

 private:
  // votes [Hq, num_scored], reduced over the window.
  absl::Status Votes(Backend& backend, const ScorerInput& input, TensorView votes) {
    const size_t num_scored = votes.dims[1];
    if (options_.softmax == SoftmaxOver::kPrefix) {
      RETURN_IF_ERROR(PrefixVotes(backend, input.layer, votes));
    } else {
      for (size_t h = 0; h < votes.dims[0]; ++h) {
        std::memcpy(votes.f32(h), input.votes.f32(h), num_scored * sizeof(float));
      }
    }
    if (options_.window_reduce == WindowReduce::kSum) return absl::OkStatus();
    const float share = 1.0f / static_cast<float>(input.layer.window_queries.dims[1]);
    for (size_t i = 0; i < votes.num_elements(); ++i) votes.f32()[i] *= share;
    return absl::OkStatus();
  }

  absl::Status PrefixVotes(Backend& backend, const LayerView& layer, TensorView votes) {
    const size_t window = layer.window_queries.dims[1];
    Array<float> lse_memory(shape_.num_query_heads * window);
    const TensorView lse(lse_memory.data(), {shape_.num_query_heads, window});
    RETURN_IF_ERROR(WindowLogSumExp(backend, layer.window_queries, layer.keys, votes.dims[1],
                                    layer.window_begin, lse));
    return WindowVotes(backend, {.q = layer.window_queries,
                                 .keys = layer.keys,
                                 .lse = lse,
                                 .first_position = layer.window_begin,
                                 .votes = votes});
  }

  const CompressionOptions options_;
  const KvShape shape_;
};

}  // namespace

std::unique_ptr<Scorer> MakeSnapKv(const CompressionOptions& options, const KvShape& shape,
                                   const KvPlan& /*plan*/) {
  return std::make_unique<SnapKv>(options, shape);
}

}  // namespace kvship
