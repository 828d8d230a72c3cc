#include "tools/window_attention.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/buffer.h"
#include "base/status_macros.h"
#include "kernels/scores.h"

namespace kvship {
namespace {

absl::Status CheckWindows(const std::vector<TokenWindow>& windows, size_t num_tokens,
                          const WindowAttentionOptions& options) {
  if (windows.empty()) return absl::InvalidArgumentError("no window was given; wanted at least 1");
  for (const TokenWindow& window : windows) {
    if (window.begin < window.end && window.end <= num_tokens &&
        window.begin >= options.prefix_tokens) {
      continue;
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "a window is ", window.begin, " to ", window.end, "; wanted one between the prefix of ",
        options.prefix_tokens, " and the end of the ", num_tokens, " tokens"));
  }
  return absl::OkStatus();
}

// What one layer says of the windows.
class LayerAttention {
 public:
  LayerAttention(Backend& backend, const LayerView& layer, const WindowAttentionOptions& options)
      : backend_(backend),
        layer_(layer),
        options_(options),
        num_kv_heads_(layer.keys.dims[0]),
        num_query_heads_(layer.window_queries.dims[0]),
        votes_(num_query_heads_ * options.prefix_tokens) {}

  absl::Status Measure(const TokenWindow& window, WindowAttention* out) {
    RETURN_IF_ERROR(Vote(window.begin, window.end));
    Array<float> sums(num_kv_heads_ * options_.prefix_tokens);
    const TensorView grouped(sums.data(), {num_kv_heads_, options_.prefix_tokens});
    RETURN_IF_ERROR(ReduceGroups(backend_, votes(), GroupReduce::kSum, grouped));
    const auto num_voted = static_cast<size_t>(
        std::ceil(options_.voted_share * static_cast<double>(options_.prefix_tokens)));
    auto& voted = out->voted.emplace_back();
    for (size_t h = 0; h < num_kv_heads_; ++h) {
      voted.push_back(TopPositions({grouped.f32(h), options_.prefix_tokens}, num_voted));
    }
    auto& attended = out->attended.emplace_back(num_kv_heads_);
    if (window.begin < options_.generated_from) return absl::OkStatus();
    std::vector<std::vector<bool>> seen(num_kv_heads_,
                                        std::vector<bool>(options_.prefix_tokens, false));
    for (size_t query = window.begin; query < window.end; ++query) {
      RETURN_IF_ERROR(Vote(query, query + 1));
      for (size_t h = 0; h < num_query_heads_; ++h) {
        std::vector<bool>& marks = seen[h * num_kv_heads_ / num_query_heads_];
        for (size_t i = 0; i < options_.prefix_tokens; ++i) {
          if (votes().f32(h)[i] > options_.attended_weight) marks[i] = true;
        }
      }
    }
    for (size_t h = 0; h < num_kv_heads_; ++h) {
      for (size_t i = 0; i < options_.prefix_tokens; ++i) {
        if (seen[h][i]) attended[h].push_back(static_cast<int32_t>(i));
      }
    }
    return absl::OkStatus();
  }

 private:
  TensorView votes() {
    return TensorView(votes_.data(), {num_query_heads_, options_.prefix_tokens});
  }

  // Fills votes() with the sums over the queries of the positions [begin, end).
  absl::Status Vote(size_t begin, size_t end) {
    const size_t first = begin - layer_.window_begin;
    return WindowVotes(backend_, {.q = layer_.window_queries.Slice(1, first, end - begin),
                                  .keys = layer_.keys,
                                  .lse = layer_.window_lse.Slice(1, first, end - begin),
                                  .first_position = begin,
                                  .votes = votes()});
  }

  Backend& backend_;
  const LayerView layer_;
  const WindowAttentionOptions& options_;
  const size_t num_kv_heads_;
  const size_t num_query_heads_;
  Array<float> votes_;  // [Hq, prefix]
};

}  // namespace

absl::StatusOr<std::vector<WindowAttention>> MeasureWindowAttention(
    LocalRun& run, const std::vector<int32_t>& tokens, const std::vector<TokenWindow>& windows,
    const WindowAttentionOptions& options) {
  RETURN_IF_ERROR(CheckWindows(windows, tokens.size(), options));
  LayerNeeds needs = {.window_begin = windows[0].begin, .window_end = windows[0].end};
  for (const TokenWindow& window : windows) {
    needs.window_begin = std::min(needs.window_begin, window.begin);
    needs.window_end = std::max(needs.window_end, window.end);
  }
  std::vector<WindowAttention> out(windows.size());
  RETURN_IF_ERROR(
      run.VisitLayers(tokens, needs, [&](Backend& backend, const LayerView& layer) -> absl::Status {
        LayerAttention attention(backend, layer, options);
        for (size_t w = 0; w < windows.size(); ++w) {
          RETURN_IF_ERROR(attention.Measure(windows[w], &out[w]));
        }
        return absl::OkStatus();
      }));
  return out;
}

}  // namespace kvship
