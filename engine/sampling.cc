#include "engine/sampling.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

absl::Status Wrong(absl::string_view name, double value, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("sampling.", name, " is ", value, "; wanted ", wanted));
}

// NaN comes last.
float OrLowest(float logit) { return std::isnan(logit) ? -INFINITY : logit; }

// Whether token a comes before token b: more likely, or as likely with a smaller id.
struct MoreLikely {
  std::span<const float> logits;
  bool operator()(int32_t a, int32_t b) const {
    const float x = OrLowest(logits[a]), y = OrLowest(logits[b]);
    return x != y ? x > y : a < b;
  }
};

// The `count` likeliest tokens in order; few.
std::vector<int32_t> LikeliestTokens(std::span<const float> logits, size_t count) {
  const MoreLikely more_likely = {logits};
  count = std::min(count, logits.size());
  std::vector<int32_t> heap(count);  // the least likely first
  if (count == 0) return heap;
  std::iota(heap.begin(), heap.end(), 0);
  std::make_heap(heap.begin(), heap.end(), more_likely);
  float least = OrLowest(logits[heap.front()]);
  for (size_t i = count; i < logits.size(); ++i) {
    if (!(logits[i] > least)) continue;  // nor where equal, its id being larger
    std::pop_heap(heap.begin(), heap.end(), more_likely);
    heap.back() = static_cast<int32_t>(i);
    std::push_heap(heap.begin(), heap.end(), more_likely);
    least = OrLowest(logits[heap.front()]);
  }
  std::sort_heap(heap.begin(), heap.end(), more_likely);
  return heap;
}

absl::Status CheckPenalty(absl::string_view name, double penalty) {
  if (penalty >= -kMostPenalty && penalty <= kMostPenalty) return absl::OkStatus();
  return Wrong(name, penalty, "a number from -2 to 2");
}

absl::Status CheckLogitBias(std::span<const TokenBias> logit_bias) {
  if (logit_bias.size() > kMostLogitBiases) {
    return absl::InvalidArgumentError(absl::StrCat("sampling.logit_bias is for ", logit_bias.size(),
                                                   " tokens; wanted at most ", kMostLogitBiases));
  }
  for (const auto& [token, bias] : logit_bias) {
    if (bias >= -kMostLogitBias && bias <= kMostLogitBias) continue;
    return Wrong(absl::StrCat("logit_bias[", token, "]"), bias, "a number from -100 to 100");
  }
  return absl::OkStatus();
}

void Penalize(const TokenCounts& counts, const SamplingOptions& options, std::span<float> logits) {
  const auto repeated = static_cast<float>(options.repetition_penalty);
  for (const auto& [token, count] : counts) {
    float& logit = logits[token];
    logit = logit > 0 ? logit / repeated : logit * repeated;
    if (count == 0) continue;
    logit -= static_cast<float>(options.presence_penalty + options.frequency_penalty * count);
  }
}

// In memory of the calling thread, valid until its next call: fresh pages cost more than the rest.
std::span<const float> AdjustedLogits(std::span<const float> logits, const SamplingOptions& options,
                                      const TokenCounts& counts, std::span<const uint32_t> mask) {
  thread_local std::vector<float> adjusted;
  adjusted.assign(logits.begin(), logits.end());
  for (const auto& [token, bias] : options.logit_bias) adjusted[token] += bias;
  if (options.has_penalty()) Penalize(counts, options, adjusted);
  for (size_t word = 0; word < mask.size(); ++word) {
    if (mask[word] == UINT32_MAX) continue;
    const size_t end = std::min(adjusted.size(), 32 * (word + 1));
    for (size_t token = 32 * word; token < end; ++token) {
      if (!Allows(mask, token)) adjusted[token] = -INFINITY;
    }
  }
  return adjusted;
}

}  // namespace

absl::Status SamplingOptions::Validate() const {
  if (!(temperature >= 0 && temperature <= kMostTemperature)) {
    return Wrong("temperature", temperature, "a number from 0 to 100");
  }
  if (!(top_p > 0 && top_p <= 1)) return Wrong("top_p", top_p, "a number above 0 and up to 1");
  if (!(min_p >= 0 && min_p <= 1)) return Wrong("min_p", min_p, "a number from 0 to 1");
  RETURN_IF_ERROR(CheckPenalty("presence_penalty", presence_penalty));
  RETURN_IF_ERROR(CheckPenalty("frequency_penalty", frequency_penalty));
  if (!(repetition_penalty >= kLeastRepetitionPenalty &&
        repetition_penalty <= kMostRepetitionPenalty)) {
    return Wrong("repetition_penalty", repetition_penalty, "a number from 0.1 to 10");
  }
  return CheckLogitBias(logit_bias);
}

TokenDraw SamplingOptions::DrawOf(uint64_t index) const {
  if (is_greedy()) return {.index = index};
  // So cold that what is not the highest logit has no chance; more would be infinite.
  constexpr double kColdestScale = 1e30;
  const double scale = std::numbers::log2e * (1 << kHalvingBits) / temperature;
  // Infinite of 0, and above what a distance may be of less than 2^-32.
  const double farthest = -std::log2(min_p) * (1 << kHalvingBits);
  return {.scale = static_cast<float>(std::min(scale, kColdestScale)),
          .top_k = static_cast<uint32_t>(std::min<size_t>(top_k, UINT32_MAX)),
          .top_p = top_p == 1 ? 0 : std::max<uint64_t>(1, static_cast<uint64_t>(top_p * 0x1p64)),
          .seed = seed,
          .index = index,
          .farthest = static_cast<uint32_t>(std::min<double>(farthest, kNoChance))};
}

TokenMask AllTokensBut(std::span<const int32_t> tokens, size_t vocab_tokens) {
  if (tokens.empty()) return {};
  TokenMask mask(TokenMaskWords(vocab_tokens), UINT32_MAX);
  for (const int32_t token : tokens) mask[token / 32] &= ~(uint32_t{1} << (token % 32));
  return mask;
}

TokenCounts PromptCounts(std::span<const int32_t> prompt, const SamplingOptions& options) {
  TokenCounts counts;
  if (options.repetition_penalty == 1) return counts;
  for (const int32_t token : prompt) counts.emplace(token, 0);
  return counts;
}

absl::Status NoLogits() {
  return absl::FailedPreconditionError(
      "the model's activations overflow on this text: its logits are no numbers to draw a token "
      "from");
}

absl::StatusOr<OutputToken> SampleToken(std::span<const float> logits,
                                        const SamplingOptions& options, uint64_t index,
                                        size_t num_logprobs, const TokenCounts& counts,
                                        std::span<const uint32_t> mask) {
  const TokenDraw draw = options.DrawOf(index);
  const int32_t token = options.adjusts_logits() || !mask.empty()
                            ? DrawToken(AdjustedLogits(logits, options, counts, mask), draw)
                            : DrawToken(logits, draw);
  if (token == kNoToken) return NoLogits();
  if (num_logprobs == 0) return OutputToken{.token = token, .logprob = 0, .top = {}};
  return ForceToken(logits, token, num_logprobs);
}

absl::StatusOr<OutputToken> ForceToken(std::span<const float> logits, int32_t token,
                                       size_t num_logprobs) {
  const double log_sum = LogSumExp(logits);
  if (!std::isfinite(log_sum)) return NoLogits();
  OutputToken out{
      .token = token, .logprob = static_cast<float>(logits[token] - log_sum), .top = {}};
  for (int32_t likely : LikeliestTokens(logits, num_logprobs)) {
    out.top.push_back({likely, static_cast<float>(logits[likely] - log_sum)});
  }
  return out;
}

}  // namespace kvship
