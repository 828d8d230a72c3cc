// Drawing the next token from logits: a pure function of the logits, the options and the index of
// the output token, so that the first token, drawn on the prefill node, and all later ones do not
// depend on who else is served.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/token_draw.h"

namespace kvship {

struct SamplingOptions {
  double temperature = 0;  // 0: the most likely token, ties to the smallest id
  double top_p =
      1;  // in (0, 1]: the smallest set of likeliest tokens with at least this probability
  size_t top_k = 0;  // only the top_k likeliest; 0: all
  uint64_t seed = 0;

  // The likeliest token is always drawn.
  bool is_greedy() const { return temperature == 0 || top_k == 1; }

  // InvalidArgument naming field, value and what was wanted; NaN is always wrong.
  absl::Status Validate() const;

  // How a device draws the `index`-th output token (from 0). The options are valid.
  TokenDraw DrawOf(uint64_t index) const;
};

inline constexpr double kMostTemperature = 100;
inline constexpr size_t kMostLogprobs = 20;

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

// One output token with the natural logarithms of the probabilities at temperature 1 that were
// asked for.
struct OutputToken {
  int32_t token = 0;
  float logprob = 0;  // filled if num_logprobs > 0 or the token was forced
  std::vector<TokenLogprob>
      top;  // the num_logprobs likeliest, most likely first, ties to the smallest id
};

// log(sum(exp(logits))); a logit less this is its token's log-probability. Not of an empty span.
double LogSumExp(std::span<const float> logits);

// The `index`-th output token (from 0) of a request.
OutputToken SampleToken(std::span<const float> logits, const SamplingOptions& options,
                        uint64_t index, size_t num_logprobs);

// `token` as if it had been drawn.
OutputToken ForceToken(std::span<const float> logits, int32_t token, size_t num_logprobs);

}  // namespace kvship
