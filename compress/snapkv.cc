// SnapKV (arXiv 2404.14469, section 4): the queries of the observation window vote, and votes are
// smoothed over neighbouring tokens so that a phrase is kept whole.
//
//   scores[h, i] = pool( mean or sum over the window of softmax(q.k / sqrt(D)) ), reduced over
//   h's Hq/H query heads
//
// for the positions i before the window. The softmax runs over all T keys, causal inside the
// window, or over those before it. The group mean follows NVIDIA/kvpress; with GroupReduce::kNone
// each query head has a set of its own, as in the paper.
#include <algorithm>
#include <utility>

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

  absl::Status Watch(Backend& backend, const LayerView& layer, size_t begin,
                     size_t count) override {
    if (options_.softmax == SoftmaxOver::kAll) return absl::OkStatus();
    const size_t query_heads = shape_.num_query_heads;
    const size_t num_scored = layer.window_begin;
    if (begin == 0) prefix_votes_ = Array<float>(query_heads * num_scored);
    const TensorView queries = layer.window_queries.Slice(1, begin, count);
    const size_t first_position = layer.window_begin + begin;
    Array<float> lse_memory(query_heads * count);
    const TensorView lse(lse_memory.data(), {query_heads, count});
    RETURN_IF_ERROR(WindowLogSumExp(backend, queries, layer.keys, num_scored, first_position, lse));
    return WindowVotes(backend,
                       {.q = queries,
                        .keys = layer.keys,
                        .lse = lse,
                        .first_position = first_position,
                        .accumulate = begin > 0,
                        .votes = TensorView(prefix_votes_.data(), {query_heads, num_scored})});
  }

  absl::Status Score(Backend& backend, const ScorerInput& input, TensorView scores) override {
    const size_t num_scored = scores.dims[1];
    const size_t query_heads = shape_.num_query_heads;
    Array<float> votes_memory = Votes(input, num_scored);
    Array<float> pooled_memory(query_heads * num_scored);
    const TensorView votes(votes_memory.data(), {query_heads, num_scored});
    const TensorView pooled(pooled_memory.data(), {query_heads, num_scored});
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
  // [Hq, num_scored], reduced over the window.
  Array<float> Votes(const ScorerInput& input, size_t num_scored) {
    Array<float> votes = std::exchange(prefix_votes_, {});
    if (options_.softmax == SoftmaxOver::kAll) {
      votes = Array<float>(shape_.num_query_heads * num_scored);
      for (size_t h = 0; h < shape_.num_query_heads; ++h) {
        std::copy_n(input.votes.f32(h), num_scored, votes.data() + h * num_scored);
      }
    }
    if (options_.window_reduce == WindowReduce::kSum) return votes;
    const float share = 1.0f / static_cast<float>(input.layer.window_queries.dims[1]);
    for (float& vote : votes.span()) vote *= share;
    return votes;
  }

  const CompressionOptions options_;
  const KvShape shape_;
  Array<float> prefix_votes_;  // [Hq, num_scored] of the window's queries that were seen
};

}  // namespace

std::unique_ptr<Scorer> MakeSnapKv(const CompressionOptions& options, const KvShape& shape,
                                   const KvPlan& /*plan*/) {
  return std::make_unique<SnapKv>(options, shape);
}

}  // namespace kvship
