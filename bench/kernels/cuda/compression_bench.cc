#include "bench/kernels/cuda/compression_bench.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/cuda/gather_pages.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mass_tokens.h"
#include "kernels/cuda/pool_scores.h"
#include "kernels/cuda/share_tokens.h"
#include "kernels/cuda/top_positions.h"
#include "kernels/cuda/window_votes.h"
#include "kernels/page_layout.h"

namespace kvship::cuda {
namespace {

constexpr size_t kHeadDim = 128;
constexpr size_t kElementBytes = 2;

// A layer's inputs of compression, and what compression makes of them.
struct Layer {
  Layer(Heads h, size_t num_tokens, size_t w, size_t k)
      : heads(h),
        tokens(num_tokens),
        window(w),
        kept(k),
        q(h.query * w * kHeadDim * kElementBytes),
        keys(h.kv * num_tokens * kHeadDim * kElementBytes),
        values(keys.num_bytes()),
        lse(h.query * w * sizeof(float)),
        votes(h.query * num_tokens * sizeof(float)),
        scores(h.kv * num_tokens * sizeof(float)),
        positions(h.kv * (k + w) * sizeof(int32_t)),
        workspace(TopPositionsWorkspaceBytes(h.kv, num_tokens)),
        share_workspace(ShareTokensWorkspaceBytes(h.kv)),
        mass_workspace(MassTokensWorkspaceBytes(h.kv)),
        offsets((h.kv + 1) * sizeof(int32_t)),
        shared_offsets(offsets.num_bytes()),
        pages(h.kv * PagesFor(k + w) * PageBytes(PageFormat::kBf16, kHeadDim)) {
    for (const DeviceBytes* zeros : {&workspace, &share_workspace, &mass_workspace}) {
      OrDie(cudaMemset(zeros->data(), 0, zeros->num_bytes()), "workspace");
    }
    std::vector<int32_t> ends(h.kv + 1);
    for (size_t i = 0; i <= h.kv; ++i) ends[i] = static_cast<int32_t>(i * (k + w));
    OrDie(cudaMemcpy(offsets.data(), ends.data(), offsets.num_bytes(), cudaMemcpyHostToDevice),
          "offsets");
    FillNormalBf16(q);
    FillNormalBf16(keys);
    FillNormalBf16(values);
    // About what the log-sum-exp of so many scores of deviation 1 is.
    FillFloats(lse, [&](double) { return std::log(static_cast<double>(tokens)) + 0.5; });
    FillFloats(scores, [](double normal) { return std::exp(2 * normal - 12); });
  }
  size_t prefix() const { return tokens - window; }

  WindowVotesArgs Votes() const {
    return {.q = q.data(),
            .keys = keys.data(),
            .lse = lse.as<float>(),
            .votes = votes.as<float>(),
            .num_query_heads = heads.query,
            .num_kv_heads = heads.kv,
            .window = window,
            .num_keys = tokens,
            .head_dim = kHeadDim,
            .q_head_stride = window * kHeadDim,
            .q_row_stride = kHeadDim,
            .lse_head_stride = window,
            .key_head_stride = tokens * kHeadDim,
            .votes_row_stride = tokens,
            .first_position = prefix()};
  }
  absl::Status Vote(cudaStream_t stream) const { return WindowVotes(stream, Votes()); }
  absl::Status Pool(cudaStream_t stream, Pooling pooling) const {
    return PoolScores(stream, {.votes = votes.as<float>(),
                               .scores = scores.as<float>(),
                               .num_query_heads = heads.query,
                               .num_kv_heads = heads.kv,
                               .num_tokens = prefix(),
                               .votes_row_stride = tokens,
                               .scores_row_stride = tokens,
                               .pooling = pooling,
                               .kernel = 31});
  }
  absl::Status Select(cudaStream_t stream) const {
    return TopPositions(stream, {.scores = scores.as<float>(),
                                 .offsets = offsets.as<int32_t>(),
                                 .positions = positions.as<int32_t>(),
                                 .workspace = workspace.data(),
                                 .num_rows = heads.kv,
                                 .num_scores = prefix(),
                                 .scores_row_stride = tokens,
                                 .num_appended = window});
  }
  // What heads get of places that they share, of which each is sure of a fifth.
  absl::Status Share(cudaStream_t stream) const {
    return ShareTokens(stream, {.scores = scores.as<float>(),
                                .offsets = shared_offsets.as<int32_t>(),
                                .workspace = share_workspace.data(),
                                .num_rows = heads.kv,
                                .num_scores = prefix(),
                                .scores_row_stride = tokens,
                                .num_sure = kept / 5,
                                .num_shared = heads.kv * (kept - kept / 5),
                                .num_appended = window});
  }
  absl::Status CountForMass(cudaStream_t stream) const {
    return MassTokens(stream, {.scores = scores.as<float>(),
                               .votes = votes.as<float>(),
                               .offsets = shared_offsets.as<int32_t>(),
                               .workspace = mass_workspace.data(),
                               .num_kv_heads = heads.kv,
                               .group = heads.query / heads.kv,
                               .window = window,
                               .num_tokens = tokens,
                               .num_scores = prefix(),
                               .scores_row_stride = tokens,
                               .votes_row_stride = tokens,
                               .most = kept,
                               .num_appended = window,
                               .target_share = 0.5});
  }
  absl::Status Gather(cudaStream_t stream, PageFormat format = PageFormat::kBf16) const {
    return GatherPages(stream, {.keys = keys.data(),
                                .values = values.data(),
                                .positions = positions.as<int32_t>(),
                                .offsets = offsets.as<int32_t>(),
                                .pages = pages.data(),
                                .format = format,
                                .num_kv_heads = heads.kv,
                                .head_dim = kHeadDim,
                                .head_stride = tokens * kHeadDim,
                                .most_pages = heads.kv * PagesFor(kept + window)});
  }

  Heads heads;
  size_t tokens, window, kept;
  DeviceBytes q, keys, values, lse, votes, scores, positions;
  DeviceBytes workspace, share_workspace, mass_workspace, offsets, shared_offsets, pages;
};

// As many sets of a layer as exceed the cache.
std::vector<Layer> LayerSets(Heads heads, size_t tokens, size_t window, size_t kept) {
  const size_t bytes = heads.kv * tokens * kHeadDim * kElementBytes;
  std::vector<Layer> sets;
  const size_t count = std::max<size_t>(1, std::min<size_t>(16, (size_t{256} << 20) / bytes));
  sets.reserve(count);
  for (size_t i = 0; i < count; ++i) sets.emplace_back(heads, tokens, window, kept);
  return sets;
}

void TimeVotes(Bench& bench, const char* name, const VotesShape& shape,
               absl::Status (*vote)(cudaStream_t, const WindowVotesArgs&)) {
  const auto& [heads, tokens, window] = shape;
  const std::vector<Layer> sets = LayerSets(heads, tokens, window, 64);
  const double bytes = static_cast<double>(sets[0].keys.num_bytes() + sets[0].votes.num_bytes());
  const double operations = 2.0 * static_cast<double>(heads.query * window * tokens * kHeadDim);
  bench.Time(name, Label("H %zu T %zu W %zu", heads.kv, tokens, window), bytes, operations,
             sets.size(),
             [&](size_t set, cudaStream_t stream) { return vote(stream, sets[set].Votes()); });
}

}  // namespace

void BenchVotes(Bench& bench, const VotesShape& shape) {
  TimeVotes(bench, "window_votes", shape, WindowVotes);
}

void BenchVotesTma(Bench& bench, const VotesShape& shape) {
  if (*IsHopper()) TimeVotes(bench, "window_votes tma", shape, WindowVotesTma);
}

void BenchCompression(Bench& bench, size_t tokens, size_t kept) {
  const std::vector<Layer> sets = LayerSets(kGrouped, tokens, 32, kept);
  const Layer& l = sets[0];
  const std::string label = Label("H 8 T %zu k %zu", tokens, kept);
  const auto score_bytes = static_cast<double>(l.scores.num_bytes());
  // Before anything has written over the scores.
  bench.Time("top_positions", label, score_bytes, 0, sets.size(),
             [&](size_t set, cudaStream_t stream) { return sets[set].Select(stream); });
  bench.Time("share_tokens", label, score_bytes, 0, sets.size(),
             [&](size_t set, cudaStream_t stream) { return sets[set].Share(stream); });
  bench.Time("gather_pages", label, 2.0 * static_cast<double>(l.pages.num_bytes()), 0, sets.size(),
             [&](size_t set, cudaStream_t stream) { return sets[set].Gather(stream); });
  for (PageFormat format : {PageFormat::kFp8, PageFormat::kInt8, PageFormat::kInt4}) {
    const size_t written_bytes = l.heads.kv * PagesFor(kept + 32) * PageBytes(format, kHeadDim);
    bench.Time(std::string("gather_pages ") + PageFormatName(format), label,
               static_cast<double>(l.pages.num_bytes() + written_bytes), 0, sets.size(),
               [&](size_t set, cudaStream_t stream) { return sets[set].Gather(stream, format); });
  }
  bench.Time(
      "whole compression", label,
      static_cast<double>(l.keys.num_bytes() + 2 * l.votes.num_bytes() + 2 * l.pages.num_bytes()) +
          2 * score_bytes,
      0, sets.size(), [&](size_t set, cudaStream_t stream) -> absl::Status {
        absl::Status status = sets[set].Vote(stream);
        if (status.ok()) status = sets[set].Pool(stream, Pooling::kAverage);
        if (status.ok()) status = sets[set].Select(stream);
        return status.ok() ? sets[set].Gather(stream) : status;
      });
  // Of the votes and scores that this has left.
  bench.Time("mass_tokens", label, static_cast<double>(l.votes.num_bytes()) + score_bytes, 0,
             sets.size(),
             [&](size_t set, cudaStream_t stream) { return sets[set].CountForMass(stream); });
  for (Pooling pooling : {Pooling::kAverage, Pooling::kMax}) {
    bench.Time(pooling == Pooling::kMax ? "pool_scores max 31" : "pool_scores average 31", label,
               static_cast<double>(l.votes.num_bytes()) + score_bytes, 0, sets.size(),
               [&](size_t set, cudaStream_t stream) { return sets[set].Pool(stream, pooling); });
  }
}

void BenchTies(Bench& bench, size_t tokens) {
  Layer layer(kGrouped, tokens, 32, 2048);
  FillFloats(layer.scores, [](double) { return 0.25; });
  bench.Time("top_positions, all equal", Label("H 8 T %zu k 2048", tokens),
             static_cast<double>(layer.scores.num_bytes()), 0, 1,
             [&](size_t, cudaStream_t stream) { return layer.Select(stream); });
}

}  // namespace kvship::cuda
