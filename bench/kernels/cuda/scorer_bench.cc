#include "bench/kernels/cuda/scorer_bench.h"

#include <cmath>
#include <string>

#include "kernels/cuda/expected_scores.h"
#include "kernels/cuda/key_directions.h"
#include "kernels/cuda/query_moments.h"
#include "kernels/cuda/window_votes.h"

namespace kvship::cuda {
namespace {

constexpr size_t kQueryHeads = 32, kKvHeads = 8, kHeadDim = 128, kElementBytes = 2;
constexpr size_t kRow = (kQueryHeads + 2 * kKvHeads) * kHeadDim;

void BenchKeyDirections(Bench& bench, const std::string& label, const DeviceBytes& keys,
                        size_t tokens) {
  const DeviceBytes scores(kKvHeads * tokens * sizeof(float));
  const DeviceBytes workspace(KeyDirectionsWorkspaceBytes(kKvHeads, tokens, kHeadDim));
  // Keys are read twice: the first time says where they point on the average.
  bench.Time("key_directions", label,
             static_cast<double>(2 * keys.num_bytes() + scores.num_bytes()), 0, 1,
             [&](size_t, cudaStream_t stream) {
               return ScoreKeyDirections(stream, {.keys = keys.data(),
                                                  .scores = scores.as<float>(),
                                                  .workspace = workspace.data(),
                                                  .num_kv_heads = kKvHeads,
                                                  .num_tokens = tokens,
                                                  .head_dim = kHeadDim,
                                                  .key_head_stride = tokens * kHeadDim,
                                                  .scores_row_stride = tokens});
             });
}

void BenchExpectedScores(Bench& bench, const std::string& label, const DeviceBytes& keys,
                         size_t tokens) {
  const DeviceBytes mean(kQueryHeads * kHeadDim * sizeof(float));
  const DeviceBytes covariance(mean.num_bytes() * kHeadDim);
  const DeviceBytes logits(kQueryHeads * tokens * sizeof(float));
  const DeviceBytes scores(kKvHeads * tokens * sizeof(float));
  const DeviceBytes workspace(ExpectedScoresWorkspaceBytes(kQueryHeads));
  FillFloats(mean, [](double normal) { return normal; });
  FillFloats(covariance, [](double normal) { return 0.1 * normal; });
  const auto products = static_cast<double>(kQueryHeads * tokens * kHeadDim * kHeadDim);
  bench.Time("expected_scores", label,
             static_cast<double>(2 * keys.num_bytes() + 2 * logits.num_bytes()), 2 * products, 1,
             [&](size_t, cudaStream_t stream) {
               return ExpectedScores(stream, {.keys = keys.data(),
                                              .values = keys.data(),
                                              .mean = mean.as<float>(),
                                              .covariance = covariance.as<float>(),
                                              .logits = logits.as<float>(),
                                              .scores = scores.as<float>(),
                                              .workspace = workspace.data(),
                                              .num_query_heads = kQueryHeads,
                                              .num_kv_heads = kKvHeads,
                                              .num_tokens = tokens,
                                              .head_dim = kHeadDim,
                                              .head_stride = tokens * kHeadDim,
                                              .scores_row_stride = tokens,
                                              .first_token = 4});
             });
}

// Of the prompt's last `queries` queries, in the passes that prefill takes.
absl::Status AddColumnSums(cudaStream_t stream, const DeviceBytes& qkv, const DeviceBytes& keys,
                           const DeviceBytes& lse, const DeviceBytes& sums, size_t tokens,
                           size_t queries) {
  absl::Status status;
  for (size_t row = 0; row < queries && status.ok(); row += kMostWindowQueries) {
    const size_t first = tokens - queries + row;
    status = WindowVotes(stream, {.q = qkv.data() + row * kRow * kElementBytes,
                                  .keys = keys.data(),
                                  .lse = lse.as<float>() + row,
                                  .votes = sums.as<float>(),
                                  .num_query_heads = kQueryHeads,
                                  .num_kv_heads = kKvHeads,
                                  .window = kMostWindowQueries,
                                  .num_keys = first + kMostWindowQueries,
                                  .head_dim = kHeadDim,
                                  .q_head_stride = kHeadDim,
                                  .q_row_stride = kRow,
                                  .lse_head_stride = queries,
                                  .key_head_stride = tokens * kHeadDim,
                                  .votes_row_stride = tokens,
                                  .first_position = first,
                                  .accumulate = true});
  }
  return status;
}

void BenchBlock(Bench& bench, const std::string& label, const DeviceBytes& keys, size_t tokens) {
  constexpr size_t kQueries = 8192;
  const DeviceBytes qkv(kQueries * kRow * kElementBytes);
  const DeviceBytes lse(kQueryHeads * kQueries * sizeof(float));
  const DeviceBytes column_sums(kQueryHeads * tokens * sizeof(float));
  const DeviceBytes sums(kQueryHeads * kHeadDim * sizeof(double));
  const DeviceBytes products(sums.num_bytes() * kHeadDim);
  FillNormalBf16(qkv);
  FillFloats(lse, [&](double) { return std::log(static_cast<double>(tokens)) + 0.5; });
  for (const DeviceBytes* zeros : {&column_sums, &sums, &products}) {
    OrDie(cudaMemset(zeros->data(), 0, zeros->num_bytes()), "sums");
  }
  const auto queries = static_cast<double>(kQueryHeads * kQueries);
  const double keys_seen = static_cast<double>(tokens) - 0.5 * kQueries;
  bench.Time("column sums of 8192 queries", label,
             static_cast<double>(keys.num_bytes() + 2 * column_sums.num_bytes()),
             2 * queries * keys_seen * kHeadDim, 1, [&](size_t, cudaStream_t stream) {
               return AddColumnSums(stream, qkv, keys, lse, column_sums, tokens, kQueries);
             });
  // Squares of 64 by 64 products, of which the one below the diagonal is left out.
  bench.Time("query_moments", "Hq 32 M 8192", queries * kHeadDim * kElementBytes,
             2 * 0.75 * queries * kHeadDim * kHeadDim, 1, [&](size_t, cudaStream_t stream) {
               return AddQueryMoments(stream, {.q = qkv.data(),
                                               .sums = sums.as<double>(),
                                               .products = products.as<double>(),
                                               .num_rows = kQueries,
                                               .num_query_heads = kQueryHeads,
                                               .head_dim = kHeadDim,
                                               .q_row_stride = kRow});
             });
}

}  // namespace

void BenchScorers(Bench& bench, size_t tokens) {
  const DeviceBytes keys(kKvHeads * tokens * kHeadDim * kElementBytes);
  FillNormalBf16(keys);
  const std::string label = "Hq 32 H 8 T " + std::to_string(tokens);
  BenchKeyDirections(bench, label, keys, tokens);
  BenchExpectedScores(bench, label, keys, tokens);
  BenchBlock(bench, label, keys, tokens);
}

}  // namespace kvship::cuda
