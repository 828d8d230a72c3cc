// Attention, pages and scoring at the shapes of the demo model (SmolLM2-135M: 9 query heads on 3 KV
// heads of 64, 30 layers). Prints time, bytes, rates and the share of what this machine can do
// (machine_limits.h).
#include <benchmark/benchmark.h>

#include <numeric>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/random.h"
#include "bench/kernels/machine_limits.h"
#include "kernels/attention.h"
#include "kernels/moments.h"
#include "kernels/scores.h"

namespace kvship {
namespace {

constexpr size_t kLayers = 30, kQueryHeads = 9, kKvHeads = 3, kHeadDim = 64;

std::vector<float> Activations(size_t count) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(4 * UniformUnit(1, i) - 2);
  return out;
}

double BytesOf(const std::vector<float>& numbers) {
  return static_cast<double>(numbers.size() * sizeof(float));
}

// One block of queries of one layer, at the end of a prompt.
void PromptBlock(benchmark::State& state, Arithmetic arithmetic, size_t num_queries,
                 size_t num_tokens) {
  Backend backend(static_cast<size_t>(state.range(0)));
  std::vector<float> q = Activations(num_queries * kQueryHeads * kHeadDim);
  std::vector<float> keys = Activations(kKvHeads * num_tokens * kHeadDim), values = keys;
  std::vector<float> out(q.size()), lse(num_queries * kQueryHeads);
  const PromptAttentionArgs args{
      .q = TensorView(q.data(), {num_queries, kQueryHeads, kHeadDim}),
      .keys = TensorView(keys.data(), {kKvHeads, num_tokens, kHeadDim}),
      .values = TensorView(values.data(), {kKvHeads, num_tokens, kHeadDim}),
      .first_position = num_tokens - num_queries,
      .arithmetic = arithmetic,
      .out = TensorView(out.data(), {num_queries, kQueryHeads * kHeadDim}),
      .lse = TensorView(lse.data(), {kQueryHeads, num_queries})};
  const double pairs = static_cast<double>(num_queries) *
                       (static_cast<double>(num_tokens) - static_cast<double>(num_queries - 1) / 2);
  const Work work = {.bytes = BytesOf(q) + BytesOf(keys) + BytesOf(values) + BytesOf(out),
                     .operations = 4 * pairs * kQueryHeads * kHeadDim};
  TimeWork(state, work, [&] { benchmark::DoNotOptimize(PromptAttention(backend, args).ok()); });
}

// All attention of one decode step: every layer's pages in memory of their own.
void DecodeStep(benchmark::State& state, PageFormat format, size_t num_tokens) {
  Backend backend(static_cast<size_t>(state.range(0)));
  const size_t pages_per_head = PagesFor(num_tokens), page_bytes = PageBytes(format, kHeadDim);
  Buffer memory(kLayers * kKvHeads * pages_per_head * page_bytes);
  std::vector<float> row = Activations(kPageTokens * kHeadDim);
  const TensorView rows(row.data(), {kPageTokens, kHeadDim});
  std::vector<int32_t> positions(kPageTokens);
  std::iota(positions.begin(), positions.end(), 0);
  const PageFormat tail_format = PageFormat::kF16;
  Buffer tail(PageBytes(tail_format, kHeadDim));
  GatherPages(tail_format, rows, rows, positions, tail.data());
  const std::byte* const tail_page = tail.data();
  std::vector<std::vector<const std::byte*>> pages(kLayers * kKvHeads);
  std::byte* next = memory.data();
  for (auto& list : pages) {
    for (size_t i = 0; i < pages_per_head; ++i, next += page_bytes) {
      GatherPages(format, rows, rows, positions, next);
      list.push_back(next);
    }
  }
  std::vector<float> q = Activations(kQueryHeads * kHeadDim), out(q.size());
  const size_t num_heads = kKvHeads;
  const Work work = {
      .bytes = static_cast<double>(memory.num_bytes()),
      .operations = 4.0 * static_cast<double>(kLayers * num_tokens * kQueryHeads * kHeadDim)};
  TimeWork(state, work, [&] {
    for (size_t layer = 0; layer < kLayers; ++layer) {
      std::vector<PagedHead> heads(kKvHeads);
      for (size_t h = 0; h < kKvHeads; ++h) {
        heads[h].prefix_pages = pages[layer * kKvHeads + h];
        heads[h].num_prefix_tokens = num_tokens - 1;
        heads[h].tail_pages = {&tail_page, 1};
        heads[h].num_tail_tokens = 1;
      }
      const absl::Status status =
          PagedAttention(backend, {.q = TensorView(q.data(), {1, kQueryHeads, kHeadDim}),
                                   .heads = heads,
                                   .num_heads = {&num_heads, 1},
                                   .prefix_formats = {&format, 1},
                                   .tail_formats = {&tail_format, 1},
                                   .out = TensorView(out.data(), {1, q.size()})});
      benchmark::DoNotOptimize(status.ok());
    }
  });
}

// Votes, pooling, group reduction and choice of one layer.
void ScoreLayer(benchmark::State& state, size_t window, size_t num_tokens) {
  Backend backend(static_cast<size_t>(state.range(0)));
  std::vector<float> q = Activations(kQueryHeads * window * kHeadDim);
  std::vector<float> keys = Activations(kKvHeads * num_tokens * kHeadDim);
  std::vector<float> lse(kQueryHeads * window, 10.0f);
  std::vector<float> votes(kQueryHeads * num_tokens), pooled(votes.size());
  std::vector<float> scores(kKvHeads * num_tokens);
  const TensorView votes_view(votes.data(), {kQueryHeads, num_tokens});
  const TensorView pooled_view(pooled.data(), {kQueryHeads, num_tokens});
  // Each row of scores but the last is written and read.
  const Work work = {.bytes = BytesOf(q) + BytesOf(keys) + 2 * BytesOf(votes) +
                              2 * BytesOf(pooled) + 2 * BytesOf(scores),
                     .operations = 2.0 * static_cast<double>(kQueryHeads * window * kHeadDim) *
                                   static_cast<double>(num_tokens)};
  TimeWork(state, work, [&] {
    const WindowVotesArgs args{.q = TensorView(q.data(), {kQueryHeads, window, kHeadDim}),
                               .keys = TensorView(keys.data(), {kKvHeads, num_tokens, kHeadDim}),
                               .lse = TensorView(lse.data(), {kQueryHeads, window}),
                               .first_position = num_tokens - window,
                               .votes = votes_view};
    const bool ok = WindowVotes(backend, args).ok() &&
                    PoolScores(backend, votes_view, Pooling::kAverage, 31, pooled_view).ok() &&
                    ReduceGroups(backend, pooled_view, GroupReduce::kMean,
                                 TensorView(scores.data(), {kKvHeads, num_tokens}))
                        .ok();
    benchmark::DoNotOptimize(ok);
    for (size_t h = 0; h < kKvHeads; ++h) {
      benchmark::DoNotOptimize(
          TopPositions(std::span(scores).subspan(h * num_tokens, num_tokens), num_tokens / 8));
    }
  });
}

// Moments of a block of one layer's queries, in double.
void AddBlockMoments(benchmark::State& state, size_t num_queries) {
  Backend backend(static_cast<size_t>(state.range(0)));
  std::vector<float> x = Activations(num_queries * kQueryHeads * kHeadDim);
  std::vector<double> sums(kQueryHeads * kHeadDim), products(sums.size() * kHeadDim);
  const TensorView rows(x.data(), {num_queries, kQueryHeads, kHeadDim});
  const size_t row_operations = kHeadDim + kHeadDim * (kHeadDim + 1);
  const Work work = {.bytes = BytesOf(x) + static_cast<double>(products.size() * sizeof(double)),
                     .operations = static_cast<double>(num_queries * kQueryHeads * row_operations)};
  TimeWork(state, work,
           [&] { benchmark::DoNotOptimize(AddMoments(backend, rows, sums, products).ok()); });
}

// What one layer's keys are expected to draw.
void ExpectLogits(benchmark::State& state, size_t num_tokens) {
  Backend backend(static_cast<size_t>(state.range(0)));
  std::vector<float> mean = Activations(kQueryHeads * kHeadDim);
  std::vector<float> covariance = Activations(kQueryHeads * kHeadDim * kHeadDim);
  std::vector<float> keys = Activations(kKvHeads * num_tokens * kHeadDim);
  std::vector<float> logits(kQueryHeads * num_tokens);
  const ExpectedLogitsArgs args{
      .mean = TensorView(mean.data(), {kQueryHeads, kHeadDim}),
      .covariance = TensorView(covariance.data(), {kQueryHeads, kHeadDim, kHeadDim}),
      .keys = TensorView(keys.data(), {kKvHeads, num_tokens, kHeadDim}),
      .logits = TensorView(logits.data(), {kQueryHeads, num_tokens})};
  const Work work = {
      .bytes = BytesOf(covariance) + BytesOf(keys) + BytesOf(logits),
      .operations = 2.0 * static_cast<double>(logits.size() * kHeadDim * (kHeadDim + 2))};
  TimeWork(state, work, [&] { benchmark::DoNotOptimize(ExpectedLogits(backend, args).ok()); });
}

void GatherHead(benchmark::State& state, PageFormat format, size_t num_tokens) {
  std::vector<float> keys = Activations(num_tokens * kHeadDim), values = keys;
  const TensorView key_rows(keys.data(), {num_tokens, kHeadDim});
  const TensorView value_rows(values.data(), {num_tokens, kHeadDim});
  std::vector<int32_t> positions;
  for (size_t i = 0; i < num_tokens; i += 2) positions.push_back(static_cast<int32_t>(i));
  Buffer pages(PagesFor(positions.size()) * PageBytes(format, kHeadDim));
  const size_t read_bytes = 2 * positions.size() * kHeadDim * sizeof(float);
  const Work work = {.bytes = static_cast<double>(read_bytes + pages.num_bytes())};
  TimeWork(state, work, [&] {
    GatherPages(format, key_rows, value_rows, positions, pages.data());
    benchmark::DoNotOptimize(pages.data()[0]);
  });
}

void RegisterAll() {
  const auto add = [](const std::string& name, auto body) {
    benchmark::RegisterBenchmark(name.c_str(), body)
        ->ArgName("threads")
        ->Arg(1)
        ->Arg(2)
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
  };
  for (const size_t tokens : {256, 512, 2048, 8000}) {
    for (const Arithmetic arithmetic : {Arithmetic::kFloat32, Arithmetic::kFast}) {
      const char* const name = arithmetic == Arithmetic::kFast ? "fast" : "float32";
      add("PromptBlock/256/" + std::to_string(tokens) + "/" + name,
          [=](benchmark::State& state) { PromptBlock(state, arithmetic, 256, tokens); });
    }
  }
  for (const PageFormat format : {PageFormat::kF16, PageFormat::kBf16, PageFormat::kFp8,
                                  PageFormat::kInt8, PageFormat::kInt4}) {
    for (const size_t tokens : {64, 512, 4096}) {
      add("DecodeStep/" + std::to_string(tokens) + "/" + PageFormatName(format),
          [=](benchmark::State& state) { DecodeStep(state, format, tokens); });
    }
  }
  for (const size_t tokens : {512, 8000}) {
    add("ScoreLayer/64/" + std::to_string(tokens),
        [=](benchmark::State& state) { ScoreLayer(state, 64, tokens); });
    add("ExpectedLogits/" + std::to_string(tokens),
        [=](benchmark::State& state) { ExpectLogits(state, tokens); });
  }
  add("AddMoments/256", [](benchmark::State& state) { AddBlockMoments(state, 256); });
  for (const PageFormat format :
       {PageFormat::kF16, PageFormat::kFp8, PageFormat::kInt8, PageFormat::kInt4}) {
    const std::string name = std::string("GatherHead/8000/") + PageFormatName(format);
    benchmark::RegisterBenchmark(
        name.c_str(), [format](benchmark::State& state) { GatherHead(state, format, 8000); })
        ->ArgName("threads")
        ->Arg(1)
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
  }
}

}  // namespace
}  // namespace kvship

int main(int argc, char** argv) {
  kvship::RegisterAll();
  benchmark::Initialize(&argc, argv);
  kvship::ShowLimits({1, 2});
  benchmark::RunSpecifiedBenchmarks();
}
