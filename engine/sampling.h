// Draws the next token from logits: a pure function of the logits, the options and the output so
// far. The first token, drawn on the prefill node, and all later ones are therefore independent of
// other requests.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/token_draw.h"

namespace kvship {

// Added to a token's logit.
struct TokenBias {
  int32_t token = 0;
  float bias = 0;  // in [-100, 100]

  bool operator==(const TokenBias&) const = default;
};

struct SamplingOptions {
  double temperature = 0;  // 0: the most likely token, ties to the smallest id
  double top_p =
      1;  // in (0, 1]: the smallest set of likeliest tokens with at least this probability
  size_t top_k = 0;  // only the top_k likeliest; 0: all
  double min_p = 0;  // in [0, 1]: only tokens at least min_p times as likely as the likeliest,
                     // before top_k and top_p
  uint64_t seed = 0;
  // In [-2, 2], subtracted from the logit of each token in the output: once, and once per
  // occurrence. The prompt does not count.
  double presence_penalty = 0;
  double frequency_penalty = 0;
  // In [0.1, 10]: the logit of each token in the prompt or the output is divided by it if above 0,
  // else multiplied, before the other penalties. Source: CTRL (Keskar et al. 2019).
  double repetition_penalty = 1;
  std::vector<TokenBias> logit_bias = {};

  // Whether the likeliest token is always drawn.
  bool is_greedy() const { return temperature == 0 || top_k == 1; }
  // Whether earlier tokens affect what is drawn.
  bool has_penalty() const {
    return presence_penalty != 0 || frequency_penalty != 0 || repetition_penalty != 1;
  }
  // Whether tokens are drawn from adjusted logits, for which DrawOf() alone does not suffice.
  bool adjusts_logits() const { return has_penalty() || !logit_bias.empty(); }

  // InvalidArgument naming the field, its value and what was wanted; NaN is always invalid.
  absl::Status Validate() const;

  // How a device draws the `index`-th output token (from 0). The options must be valid.
  TokenDraw DrawOf(uint64_t index) const;
};

inline constexpr double kMostTemperature = 100;
inline constexpr double kMostPenalty = 2;
inline constexpr double kLeastRepetitionPenalty = 0.1;
inline constexpr double kMostRepetitionPenalty = 10;
inline constexpr float kMostLogitBias = 100;
inline constexpr size_t kMostLogitBiases = 1024;
inline constexpr size_t kMostLogprobs = 20;

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

// One output token and the requested natural log-probabilities, as the model gives them: at
// temperature 1, without bias and penalties.
struct OutputToken {
  int32_t token = 0;
  float logprob = 0;  // filled if num_logprobs > 0 or the token was forced
  std::vector<TokenLogprob>
      top;  // the num_logprobs likeliest, most likely first, ties to the smallest id
};

// The tokens that may be drawn: token t if bit t % 32 of word t / 32 is set. Empty: all tokens.
using TokenMask = std::vector<uint32_t>;

inline size_t TokenMaskWords(size_t vocab_tokens) { return (vocab_tokens + 31) / 32; }
inline bool Allows(std::span<const uint32_t> mask, size_t token) {
  return mask.empty() || (mask[token / 32] >> (token % 32) & 1) != 0;
}
// Allows all tokens but `tokens`, which must be in the vocabulary.
TokenMask AllTokensBut(std::span<const int32_t> tokens, size_t vocab_tokens);

// How often each token of prompt and output occurs in the output: 0 if it is in the prompt alone.
using TokenCounts = std::unordered_map<int32_t, uint32_t>;

// The counts before the first output token. Empty unless the prompt's tokens are penalized.
TokenCounts PromptCounts(std::span<const int32_t> prompt, const SamplingOptions& options);

// The error of whoever is to draw from logits of which none is a number: FailedPrecondition, for
// any node would compute the same.
absl::Status NoLogits();

// Draws the `index`-th output token (from 0) of a request, one that `mask` allows. `counts` is read
// only for penalties. NoLogits() if no allowed token has a logit above -infinity, or if
// log-probabilities are wanted and a logit is infinite.
absl::StatusOr<OutputToken> SampleToken(std::span<const float> logits,
                                        const SamplingOptions& options, uint64_t index,
                                        size_t num_logprobs, const TokenCounts& counts = {},
                                        std::span<const uint32_t> mask = {});

// Returns `token` as if it had been drawn. NoLogits() if no logit is above -infinity, or one is
// infinite.
absl::StatusOr<OutputToken> ForceToken(std::span<const float> logits, int32_t token,
                                       size_t num_logprobs);

}  // namespace kvship
