// What every policy has to give, on a random layer.
#include "compress/compressor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/attention.h"
#include "kernels/scores.h"
#include "kv/policies.h"
#include "tests/compress/random_layer.h"

namespace kvship {
namespace {

struct Outcome {
  KvPlan plan;
  Compressor::Result result;
};

Outcome Compress(RandomLayer& layer, const CompressionOptions& options, size_t num_threads = 2) {
  Backend backend(num_threads);
  const auto plan = MakePlan(options, kShape, layer.num_tokens);
  EXPECT_TRUE(plan.ok()) << plan.status();
  auto compressor = Compressor::Create(options, kShape, *plan);
  EXPECT_TRUE(compressor.ok()) << compressor.status();
  auto result =
      (*compressor)->Compress(backend, layer.View((*compressor)->needs()), /*with_scores=*/true);
  EXPECT_TRUE(result.ok()) << result.status();
  return {*plan, *std::move(result)};
}

Outcome Compress(RandomLayer& layer, const std::string& options) {
  const auto parsed = ParseCompression("encoder=f32," + options);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return Compress(layer, *parsed);
}

// Every scorer, allocator and selector that go together, with a window at the end and one inside.
std::vector<CompressionOptions> AllPolicies() {
  std::vector<CompressionOptions> out;
  for (const ScorerTraits& scorer : Scorers()) {
    for (absl::string_view allocator : Allocators()) {
      for (absl::string_view selector : Selectors()) {
        for (const bool inside : {false, true}) {
          for (GroupReduce reduce : {GroupReduce::kMean, GroupReduce::kNone}) {
            CompressionOptions options;
            options.scorer = std::string(scorer.name);
            options.allocator = std::string(allocator);
            options.selector = std::string(selector);
            options.encoder = PageFormat::kF32;
            options.budget_tokens = 70;
            options.window = 16;
            options.beta = 2;
            options.kernel = 5;
            options.group_reduce = reduce;
            options.mass_target = 0.4;
            if (inside) {
              options.observe_begin = 100;
              options.observe_end = 120;
            }
            if (options.Validate().ok()) out.push_back(options);
          }
        }
      }
    }
  }
  return out;
}

// The share of the window's attention on the kept tokens of [begin, end), by the formula.
double ShareOfAttention(RandomLayer& layer, const Outcome& outcome, size_t head, size_t begin,
                        size_t end) {
  const LayerView view = layer.View({.window_begin = 0, .window_end = kTokens});
  const std::vector<int32_t>& kept = outcome.result.positions[head];
  const size_t group = kShape.num_query_heads / outcome.plan.num_heads;
  double mass = 0, all = 0;
  for (size_t g = head * group; g < (head + 1) * group; ++g) {
    const size_t kv_head = g * kShape.num_kv_heads / kShape.num_query_heads;
    for (size_t q = outcome.plan.window_begin; q < outcome.plan.window_end; ++q) {
      for (size_t i = begin; i < std::min(end, q + 1); ++i) {
        double product = 0;
        for (size_t d = 0; d < kShape.head_dim; ++d) {
          product += double{view.window_queries.f32(g, q)[d]} * view.keys.f32(kv_head, i)[d];
        }
        const double p = std::exp(product / std::sqrt(32.0) - view.window_lse.f32(g)[q]);
        all += p;
        if (std::binary_search(kept.begin(), kept.end(), static_cast<int32_t>(i))) mass += p;
      }
    }
  }
  return all == 0 ? 1 : mass / all;
}

TEST(Compressor, KeepsWhatThePlanPromisesByEveryPolicy) {
  RandomLayer layer;
  for (const CompressionOptions& options : AllPolicies()) {
    SCOPED_TRACE(FormatCompression(options));
    const Outcome outcome = Compress(layer, options);
    const HeadBudget& budget = outcome.plan.budgets[0];
    size_t num_tokens = 0;
    for (size_t h = 0; h < outcome.plan.num_heads; ++h) {
      const std::vector<int32_t>& kept = outcome.result.positions[h];
      num_tokens += kept.size();
      EXPECT_EQ(outcome.result.compact.kept_tokens[h], kept.size());
      EXPECT_EQ(std::adjacent_find(kept.begin(), kept.end(), std::greater_equal<>()), kept.end());
      EXPECT_TRUE(kept.empty() || (kept.front() >= 0 && kept.back() < int32_t{kTokens}));
      if (options.selector == "chunks") continue;  // no token is kept for certain
      ASSERT_GE(kept.size(), budget.sinks + budget.recent_tokens);
      for (size_t i = 0; i < budget.sinks; ++i) EXPECT_EQ(kept[i], static_cast<int32_t>(i));
      for (size_t i = 0; i < budget.recent_tokens; ++i) {
        EXPECT_EQ(kept[kept.size() - 1 - i], static_cast<int32_t>(kTokens - 1 - i));
      }
    }
    EXPECT_LE(num_tokens, outcome.plan.layer_tokens[0]);
    if (!outcome.plan.bounded || options.allocator == "ada") {
      EXPECT_EQ(num_tokens, outcome.plan.layer_tokens[0]);
    }
  }
}

TEST(Compressor, ReportsTheKeptShareOfTheWindowsAttentionByEveryPolicy) {
  RandomLayer layer;
  for (const CompressionOptions& options : AllPolicies()) {
    SCOPED_TRACE(FormatCompression(options));
    const Outcome outcome = Compress(layer, options);
    for (size_t h = 0; h < outcome.plan.num_heads; ++h) {
      // Probabilities to 1e-5, as in the kernel's test.
      EXPECT_NEAR(outcome.result.compact.retained_mass[h],
                  ShareOfAttention(layer, outcome, h, 0, kTokens), 1e-5);
      EXPECT_NEAR(outcome.result.compact.chosen_mass[h],
                  ShareOfAttention(layer, outcome, h, 4, outcome.plan.window_begin), 1e-5);
    }
  }
}

TEST(Compressor, ThreadsDoNotChangeWhatIsKeptByAnyPolicy) {
  RandomLayer layer;
  for (const CompressionOptions& options : AllPolicies()) {
    const Outcome one = Compress(layer, options, 1);
    const Outcome three = Compress(layer, options, 3);
    EXPECT_EQ(one.result.positions, three.result.positions) << FormatCompression(options);
    EXPECT_EQ(one.result.scores, three.result.scores) << FormatCompression(options);
  }
}

TEST(Compressor, SurvivesKeysThatAreNotNumbers) {
  RandomLayer layer;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const size_t num_keys : {size_t{1}, kTokens}) {
    std::fill_n(layer.keys.begin(), num_keys * kShape.head_dim, nan);
    for (const CompressionOptions& options : AllPolicies()) {
      const Outcome outcome = Compress(layer, options);
      for (const auto& kept : outcome.result.positions) EXPECT_LE(kept.size(), kTokens);
    }
  }
}

TEST(Compressor, TellsOverflowedActivationsByMassesThatAreNotNumbers) {
  for (const float overflowed : {std::nanf(""), HUGE_VALF}) {
    RandomLayer layer;
    // Of the last token, the first head's.
    layer.queries[(kTokens - 1) * kShape.head_dim + 3] = overflowed;
    for (const CompressionOptions& options : AllPolicies()) {
      if (options.observe_end) continue;
      const Outcome outcome = Compress(layer, options);
      EXPECT_TRUE(std::isnan(outcome.result.compact.retained_mass[0]));
      EXPECT_TRUE(std::isnan(outcome.result.compact.chosen_mass[0]));
      EXPECT_FALSE(std::isnan(outcome.result.compact.retained_mass.back()));
    }
  }
}

TEST(Compressor, TellsKeysThatHaveOverflowedByMassesThatAreNotNumbers) {
  RandomLayer layer;
  layer.keys[20 * kShape.head_dim + 3] = HUGE_VALF;  // of the first KV head
  for (const CompressionOptions& options : AllPolicies()) {
    const Outcome outcome = Compress(layer, options);
    EXPECT_TRUE(std::isnan(outcome.result.compact.retained_mass[0]));
    EXPECT_TRUE(std::isnan(outcome.result.compact.chosen_mass[0]));
    EXPECT_FALSE(std::isnan(outcome.result.compact.retained_mass.back()));
  }
}

TEST(Compressor, GathersTheKeptTokensIntoPages) {
  RandomLayer layer;
  const LayerView view = layer.View({});
  for (const char* options :
       {"window=16,budget_tokens=70,allocator=ada", "window=16,budget_tokens=70,window_encoder=f16",
        "window=16,budget_tokens=70,window_encoder=f16,group_reduce=none",
        "scorer=keep_all,window=16,window_encoder=f16"}) {
    SCOPED_TRACE(options);
    const Outcome outcome = Compress(layer, options);
    const KvPlan& plan = outcome.plan;
    const std::byte* const bytes = outcome.result.compact.bytes.data();
    const LayerLayout layout = LayoutOf(plan, outcome.result.compact.kept_tokens);
    ASSERT_EQ(outcome.result.compact.bytes.num_bytes(), layout.num_bytes);
    // Holds tokens `positions` of a KV head against pages.
    auto expect_pages = [&](std::span<const int32_t> positions, size_t kv_head, PageFormat format,
                            size_t offset, double tolerance) {
      for (size_t n = 0; n < positions.size(); ++n) {
        std::vector<float> k(kPageTokens * 32), v(kPageTokens * 32);
        ReadPage(format, bytes + offset + n / kPageTokens * PageBytes(format, 32),
                 TensorView(k.data(), {kPageTokens, 32}), TensorView(v.data(), {kPageTokens, 32}));
        for (size_t d = 0; d < 32; ++d) {
          const size_t at = n % kPageTokens * 32 + d;
          ASSERT_NEAR(k[at], view.keys.f32(kv_head, positions[n])[d], tolerance) << n;
          ASSERT_NEAR(v[at], view.values.f32(kv_head, positions[n])[d], tolerance) << n;
        }
      }
    };
    for (size_t h = 0; h < plan.num_heads; ++h) {
      const HeadBytes& head = layout.heads[h];
      std::span<const int32_t> kept = outcome.result.positions[h];
      const std::span<const int32_t> prefix = kept.first(kept.size() - plan.tail_tokens);
      EXPECT_EQ(std::memcmp(bytes + head.positions_offset, prefix.data(), head.num_positions * 4),
                0);
      expect_pages(prefix, h * 2 / plan.num_heads, PageFormat::kF32, head.pages_offset, 0);
    }
    EXPECT_EQ(plan.tail_tokens, std::string(options).find("f16") == std::string::npos ? 0u : 16u);
    std::vector<int32_t> tail(plan.tail_tokens);
    std::iota(tail.begin(), tail.end(), static_cast<int32_t>(kTokens - plan.tail_tokens));
    for (size_t h = 0; h < 2; ++h) {
      // Numbers below 1 are rounded to 11 bits.
      expect_pages(tail, h, plan.window_format, layout.tails_offset + h * layout.tail_bytes,
                   0x1p-12);
    }
  }
}

// Votes [4, num_keys] of all queries of a window at once, softmax over the keys [0, num_summed).
std::vector<float> VotesAtOnce(const LayerView& view, size_t num_keys, size_t num_summed) {
  Backend backend(2);
  const size_t window = view.window_queries.dims[1];
  std::vector<float> votes(4 * num_keys), lse(4 * window);
  WindowVotesArgs args = {.q = view.window_queries,
                          .keys = view.keys,
                          .lse = TensorView(lse.data(), {4, window}),
                          .first_position = view.window_begin,
                          .votes = TensorView(votes.data(), {4, num_keys})};
  EXPECT_TRUE(
      WindowLogSumExp(backend, args.q, args.keys, num_summed, args.first_position, args.lse).ok());
  EXPECT_TRUE(WindowVotes(backend, args).ok());
  return votes;
}

TEST(SnapKv, AWindowOfSeveralPartsVotesAsOne) {
  constexpr size_t kBegin = 100, kWindow = 2 * Compressor::kMostVoters + 88;
  constexpr size_t kAll = kBegin + kWindow;
  RandomLayer layer{.num_tokens = kAll};
  const LayerView view = layer.View({.window_begin = kBegin, .window_end = kAll});
  const std::vector<float> attention = VotesAtOnce(view, kAll, kAll);
  for (const std::string softmax : {"all", "prefix"}) {
    const Outcome outcome =
        Compress(layer,
                 "budget_tokens=64,recent_tokens=0,window_reduce=sum,group_reduce=sum,pool=none,"
                 "observe_begin=100,softmax=" +
                     softmax);
    const std::vector<float> votes = VotesAtOnce(view, kBegin, softmax == "all" ? kAll : kBegin);
    for (size_t h = 0; h < 2; ++h) {
      double kept = 0, all = 0;
      for (size_t i = 0; i < kAll; ++i) {
        const double both = attention[2 * h * kAll + i] + attention[(2 * h + 1) * kAll + i];
        const std::vector<int32_t>& positions = outcome.result.positions[h];
        all += both;
        if (std::binary_search(positions.begin(), positions.end(), int32_t(i))) kept += both;
        if (i >= kBegin) continue;
        EXPECT_EQ(outcome.result.scores[h][i],
                  votes[2 * h * kBegin + i] + votes[(2 * h + 1) * kBegin + i]);
      }
      EXPECT_NEAR(outcome.result.compact.retained_mass[h], kept / all, 1e-6);
    }
  }
}

TEST(SnapKv, AWindowInsideThePromptVotesForWhatIsBeforeIt) {
  RandomLayer layer;
  const Outcome outcome = Compress(
      layer, "kernel=1,budget_tokens=70,observe_begin=100,observe_end=120,recent_tokens=8");
  const LayerView view = layer.View({.window_begin = 100, .window_end = 120});
  Backend backend(1);
  std::vector<float> votes(4 * 100);
  ASSERT_TRUE(WindowVotes(backend, {.q = view.window_queries,
                                    .keys = view.keys,
                                    .lse = view.window_lse,
                                    .first_position = 100,
                                    .votes = TensorView(votes.data(), {4, 100})})
                  .ok());
  for (size_t h = 0; h < 2; ++h) {
    ASSERT_EQ(outcome.result.scores[h].size(), 100u);
    for (size_t i = 0; i < 100; ++i) {
      const double wanted =
          (double{votes[2 * h * 100 + i]} + votes[(2 * h + 1) * 100 + i]) / 2 / 20;
      EXPECT_NEAR(outcome.result.scores[h][i], wanted, 1e-6 * wanted);
    }
    // 8 recent tokens; of those before, none inside the window or after it.
    const std::vector<int32_t>& kept = outcome.result.positions[h];
    EXPECT_LT(kept[61], 100);
    EXPECT_EQ(kept[62], 142);
  }
}

TEST(Tova, IsTheLastQuerysAttentionWhateverTheWindow) {
  RandomLayer layer;
  const Outcome outcome = Compress(layer, "scorer=tova,budget_tokens=70");
  const Outcome longer = Compress(layer, "scorer=tova,budget_tokens=70,window=64");
  EXPECT_EQ(outcome.result.scores, longer.result.scores);
  EXPECT_EQ(outcome.result.scores[0], outcome.result.scores[1]) << "one set for the layer";
  EXPECT_EQ(outcome.result.positions[0], outcome.result.positions[1]);
  EXPECT_NEAR(
      std::accumulate(outcome.result.scores[0].begin(), outcome.result.scores[0].end(), 0.0), 1,
      1e-5);
}

TEST(H2o, NormalisedDividesByTheQueriesThatSeeTheKey) {
  RandomLayer layer;
  const std::string options = "scorer=h2o,budget_tokens=70,recent_tokens=0";
  const Outcome sums = Compress(layer, options);
  const Outcome means = Compress(layer, options + ",normalised=true");
  const Outcome per_query_head = Compress(layer, options + ",group_reduce=none");
  EXPECT_EQ(per_query_head.result.scores.size(), 4u);
  for (size_t i = 0; i < kTokens; ++i) {
    EXPECT_FLOAT_EQ(means.result.scores[1][i] * static_cast<float>(kTokens - i),
                    sums.result.scores[1][i]);
    EXPECT_EQ(per_query_head.result.scores[3][i], layer.column_sums[3 * kTokens + i]);
  }
}

TEST(Compressor, ABudgetOfWhatIsAlwaysKeptKeepsThatAlone) {
  RandomLayer layer;
  std::vector<int32_t> wanted = {0, 1, 2, 3};
  for (size_t i = kTokens - 16; i < kTokens; ++i) wanted.push_back(static_cast<int32_t>(i));
  for (const char* scorer : {"snapkv", "h2o", "knorm", "keydiff", "expected_attention", "random"}) {
    const Outcome outcome = Compress(
        layer,
        absl::StrCat("scorer=", scorer, ",window=16,sinks=4,recent_tokens=16,budget_tokens=20"));
    for (const auto& positions : outcome.result.positions) EXPECT_EQ(positions, wanted) << scorer;
  }
}

TEST(StreamingLlm, KeepsTheFirstAndTheLastWhateverRoomIsLeft) {
  RandomLayer layer;
  std::vector<int32_t> wanted(70);
  std::iota(wanted.begin(), wanted.end(), 0);
  for (size_t i = 4; i < 70; ++i) wanted[i] += kTokens - 70;
  for (const char* recent : {"", ",recent_tokens=0", ",recent_tokens=10"}) {
    const Outcome outcome =
        Compress(layer, std::string("scorer=streaming_llm,budget_tokens=70") + recent);
    EXPECT_EQ(outcome.result.positions[0], wanted) << recent;
    EXPECT_EQ(outcome.result.positions[1], wanted) << recent;
  }
}

TEST(KeyDiff, PrefersKeysThatPointElsewhere) {
  RandomLayer layer;
  // All keys of the first head point one way, but for two: one the other way, one to nowhere.
  for (size_t i = 0; i < kTokens; ++i) {
    for (size_t d = 0; d < 32; ++d) {
      layer.keys[i * 32 + d] = d == 0 ? static_cast<float>(1 + i) : 0.0f;
    }
  }
  layer.keys[20 * 32] = -5;
  layer.keys[30 * 32] = 0;
  const Outcome outcome = Compress(layer, "scorer=keydiff,budget_tokens=34");
  EXPECT_FLOAT_EQ(outcome.result.scores[0][10], -1.0f);
  EXPECT_FLOAT_EQ(outcome.result.scores[0][20], 1.0f);
  EXPECT_EQ(outcome.result.scores[0][30], 0.0f);
  EXPECT_EQ(outcome.result.positions[0][0], 20);
  EXPECT_EQ(outcome.result.positions[0][1], 30);
}

TEST(Random, DrawsAnewForEachSeedAndHead) {
  RandomLayer layer;
  const Outcome first = Compress(layer, "scorer=random,budget_tokens=70");
  const Outcome again = Compress(layer, "scorer=random,budget_tokens=70");
  const Outcome other = Compress(layer, "scorer=random,budget_tokens=70,seed=1");
  EXPECT_EQ(first.result.scores, again.result.scores);
  EXPECT_NE(first.result.scores[0], first.result.scores[1]);
  EXPECT_NE(first.result.scores[0], other.result.scores[0]);
  const std::vector<float>& scores = first.result.scores[0];
  // The mean of 150 uniform numbers is off by 0.024 as a rule.
  EXPECT_NEAR(std::accumulate(scores.begin(), scores.end(), 0.0) / kTokens, 0.5, 0.1);
}

}  // namespace
}  // namespace kvship
