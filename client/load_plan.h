// Plans what a load generator sends, and when. Arrivals are fixed before the run and do not depend
// on the server (an open loop), so that a slow server does not get less load. Pure functions of
// their arguments.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace kvship {

struct PlannedRequest {
  absl::Duration at;  // after the start of the run
  size_t prompt_tokens = 0;
  size_t output_tokens = 0;  // 0: as the request sets
  // Ids of the prompt's blocks of kTraceBlockTokens tokens, from its beginning: blocks of equal id
  // have equal tokens. Tokens beyond them are the request's own.
  std::vector<uint64_t> block_ids = {};
};

// Tokens per block in Mooncake's traces.
inline constexpr size_t kTraceBlockTokens = 512;

// The maximum length of a planned prompt or output: 16 Mi tokens, above any model's context, and 64
// MiB of ids.
inline constexpr size_t kMostPlannedTokens = 1 << 24;

// A distribution of lengths in tokens, from 1 to kMostPlannedTokens.
class LengthDistribution {
 public:
  // Parses "512", "uniform:256:1024" (both included) or "lognormal:MEDIAN:SIGMA", capped at 32
  // medians and at kMostPlannedTokens. InvalidArgument naming `field` and what was wanted.
  static absl::StatusOr<LengthDistribution> Parse(absl::string_view field, absl::string_view text);

  // Returns the `index`-th draw with this seed.
  size_t Draw(uint64_t seed, uint64_t index) const;

 private:
  enum class Kind { kFixed, kUniform, kLogNormal };
  Kind kind_ = Kind::kFixed;
  double first_ = 1;   // the length, the minimum, or the median
  double second_ = 0;  // unused, the maximum, or sigma
};

struct LoadOptions {
  size_t num_requests = 16;
  double requests_per_second = 1;  // on average; arrivals are a Poisson process
  LengthDistribution prompt_tokens = {};
  std::optional<LengthDistribution> output_tokens = {};
  uint64_t seed = 0;
};
std::vector<PlannedRequest> PlanPoisson(const LoadOptions& options);

// Makes the prompt of a plan's `index`-th request: ids below vocab_tokens.
std::vector<uint32_t> PlannedPrompt(const PlannedRequest& planned, uint64_t seed, uint64_t index,
                                    uint32_t vocab_tokens);

// Reads a trace of JSON lines {"timestamp": ms, "input_length": tokens, "output_length": tokens,
// "hash_ids": [of each block]}, the format of Mooncake's published traces (arXiv 2407.00079);
// hash_ids may be missing, other fields are ignored. Arrivals are divided by `speed` and count from
// the first line's. Errors: NotFound for the file, InvalidArgument naming line and field.
absl::StatusOr<std::vector<PlannedRequest>> ReadTrace(const std::string& path, double speed);

}  // namespace kvship
