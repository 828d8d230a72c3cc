// Attention, pages and scoring at the shapes of the demo model (SmolLM2-135M: 9 query heads on 3 KV
// heads of 64, 30 layers). Prints time, arithmetic rate or bytes read per second.
#include <benchmark/benchmark.h>

#include <numeric>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/random.h"
#include "kernels/attention.h"
#include "kernels/scores.h"

namespace kvship {
namespace {

constexpr size_t kLayers = 30, kQueryHeads = 9, kKvHeads = 3, kHeadDim = 64;

std::vector<float> Activations(size_t count) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(4 * UniformUnit(1, i) - 2);
  return out;
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
  for (auto _ : state) benchmark::DoNotOptimize(PromptAttention(backend, args).ok());
  const double pairs = static_cast<double>(num_queries) *
                       (static_cast<double>(num_tokens) - static_cast<double>(num_queries - 1) / 2);
  state.counters["GFLOP/s"] = benchmark::Counter(
      4e-9 * pairs * kQueryHeads * kHeadDim * static_cast<double>(state.iterations()),
      benchmark::Counter::kIsRate);
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
  for (auto _ : state) {
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
  }
  state.counters["GB/s"] = benchmark::Counter(
      1e-9 * static_cast<double>(memory.num_bytes()) * static_cast<double>(state.iterations()),
      benchmark::Counter::kIsRate);
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
  for (auto _ : state) {
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
  }
}

void GatherHead(benchmark::State& state, PageFormat format, size_t num_tokens) {
  std::vector<float> rows = Activations(num_tokens * kHeadDim);
  const TensorView view(rows.data(), {num_tokens, kHeadDim});
  std::vector<int32_t> positions;
  for (size_t i = 0; i < num_tokens; i += 2) positions.push_back(static_cast<int32_t>(i));
  Buffer pages(PagesFor(positions.size()) * PageBytes(format, kHeadDim));
  for (auto _ : state) {
    GatherPages(format, view, view, positions, pages.data());
    benchmark::DoNotOptimize(pages.data()[0]);
  }
  state.counters["GB/s"] = benchmark::Counter(
      1e-9 * static_cast<double>(pages.num_bytes()) * static_cast<double>(state.iterations()),
      benchmark::Counter::kIsRate);
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
  }
  for (const PageFormat format :
       {PageFormat::kF16, PageFormat::kFp8, PageFormat::kInt8, PageFormat::kInt4}) {
    const std::string name = std::string("GatherHead/8000/") + PageFormatName(format);
    benchmark::RegisterBenchmark(name.c_str(), [format](benchmark::State& state) {
      GatherHead(state, format, 8000);
    })->Unit(benchmark::kMicrosecond);
  }
}

}  // namespace
}  // namespace kvship

int main(int argc, char** argv) {
  kvship::RegisterAll();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
