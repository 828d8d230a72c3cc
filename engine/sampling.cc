#include "engine/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/random.h"

namespace kvship {
namespace {

absl::Status Wrong(const char* name, double value, const char* wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("sampling.", name, " is ", value, "; wanted ", wanted));
}

// Whether token a comes before token b: more likely, or as likely with a smaller id. NaN comes
// last.
struct MoreLikely {
  std::span<const float> logits;
  bool operator()(int32_t a, int32_t b) const {
    const float x = std::isnan(logits[a]) ? -INFINITY : logits[a];
    const float y = std::isnan(logits[b]) ? -INFINITY : logits[b];
    return x != y ? x > y : a < b;
  }
};

int32_t MostLikely(std::span<const float> logits) {
  int32_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (MoreLikely{logits}(static_cast<int32_t>(i), best)) best = static_cast<int32_t>(i);
  }
  return best;
}

// The `count` likeliest tokens in order.
std::vector<int32_t> LikeliestTokens(std::span<const float> logits, size_t count) {
  std::vector<int32_t> tokens(logits.size());
  std::iota(tokens.begin(), tokens.end(), 0);
  count = std::min(count, tokens.size());
  std::partial_sort(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(count), tokens.end(),
                    MoreLikely{logits});
  tokens.resize(count);
  return tokens;
}

double Weight(std::span<const float> logits, int32_t token, double highest, double temperature) {
  const double weight = std::exp((logits[token] - highest) / temperature);
  return std::isnan(weight) ? 0 : weight;
}

// The tokens that take part: top_k cuts first, then top_p of what is left. In order of likelihood,
// or by id where nothing is cut.
std::vector<int32_t> Candidates(std::span<const float> logits, const SamplingOptions& options,
                                double highest) {
  const size_t limit = options.top_k == 0 ? logits.size() : options.top_k;
  if (options.top_p == 1) {
    if (limit < logits.size()) return LikeliestTokens(logits, limit);
    std::vector<int32_t> all(logits.size());
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  double sum = 0;
  std::vector<int32_t> tokens;
  if (limit < logits.size()) {
    tokens = LikeliestTokens(logits, limit);
    for (int32_t token : tokens) sum += Weight(logits, token, highest, options.temperature);
  } else {
    for (size_t i = 0; i < logits.size(); ++i) {
      sum += Weight(logits, static_cast<int32_t>(i), highest, options.temperature);
    }
  }
  // Sorting a whole vocabulary takes milliseconds, and the likeliest few hundred usually hold
  // top_p.
  for (size_t count = std::min<size_t>(limit, 256);; count = std::min(limit, count * 16)) {
    if (limit == logits.size()) tokens = LikeliestTokens(logits, count);
    double kept = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      kept += Weight(logits, tokens[i], highest, options.temperature);
      if (kept < options.top_p * sum) continue;
      tokens.resize(i + 1);
      return tokens;
    }
    if (tokens.size() >= std::min(limit, logits.size())) return tokens;
  }
}

int32_t Draw(std::span<const float> logits, const SamplingOptions& options, double uniform) {
  const double highest = logits[MostLikely(logits)];
  const std::vector<int32_t> tokens = Candidates(logits, options, highest);
  double sum = 0;
  for (int32_t token : tokens) sum += Weight(logits, token, highest, options.temperature);
  double target = uniform * sum;
  int32_t drawn = tokens.front();
  for (int32_t token : tokens) {
    const double weight = Weight(logits, token, highest, options.temperature);
    if (weight > 0) drawn = token;
    target -= weight;
    if (target < 0) break;
  }
  return drawn;
}

// log(sum(exp(logits))).
double LogSumExp(std::span<const float> logits) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float x : logits) sum += std::exp(x - highest);
  return highest + std::log(sum);
}

}  // namespace

absl::Status SamplingOptions::Validate() const {
  if (!(temperature >= 0 && temperature <= kMostTemperature)) {
    return Wrong("temperature", temperature, "a number from 0 to 100");
  }
  if (!(top_p > 0 && top_p <= 1)) return Wrong("top_p", top_p, "a number above 0 and up to 1");
  return absl::OkStatus();
}

OutputToken SampleToken(std::span<const float> logits, const SamplingOptions& options,
                        uint64_t index, size_t num_logprobs) {
  const int32_t token = options.is_greedy()
                            ? MostLikely(logits)
                            : Draw(logits, options, UniformUnit(options.seed, index));
  if (num_logprobs == 0) return {.token = token, .logprob = 0, .top = {}};
  return ForceToken(logits, token, num_logprobs);
}

OutputToken ForceToken(std::span<const float> logits, int32_t token, size_t num_logprobs) {
  const double log_sum = LogSumExp(logits);
  OutputToken out{
      .token = token, .logprob = static_cast<float>(logits[token] - log_sum), .top = {}};
  for (int32_t likely : LikeliestTokens(logits, num_logprobs)) {
    out.top.push_back({likely, static_cast<float>(logits[likely] - log_sum)});
  }
  return out;
}

}  // namespace kvship
