// What a load generator sends, and when: each request's arrival is set before the run begins and
// does not depend on how the server does (an open loop), so that a slow server is not asked less.
// Pure functions of their arguments.
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
  absl::Duration at;  // after the run's begin
  size_t prompt_tokens = 0;
  size_t output_tokens = 0;  // 0: what the request says
  // Of the prompt's blocks of kTraceBlockTokens tokens, from its beginning: those of the same id
  // have the same tokens. What no id is named for has tokens of its own.
  std::vector<uint64_t> block_ids = {};
};

// As in Mooncake's traces.
inline constexpr size_t kTraceBlockTokens = 512;

// The longest prompt or output that is planned: 16 Mi tokens, above any model's context, and 64 MiB
// of ids.
inline constexpr size_t kMostPlannedTokens = 1 << 24;

// Lengths in tokens, from 1 to kMostPlannedTokens.
class LengthDistribution {
 public:
  // "512", "uniform:256:1024" (both included) or "lognormal:MEDIAN:SIGMA", cut at 32 medians and at
  // kMostPlannedTokens.
  // InvalidArgument naming `field` and what was wanted.
  static absl::StatusOr<LengthDistribution> Parse(absl::string_view field, absl::string_view text);

  // The `index`-th draw with this seed.
  size_t Draw(uint64_t seed, uint64_t index) const;

 private:
  enum class Kind { kFixed, kUniform, kLogNormal };
  Kind kind_ = Kind::kFixed;
  double first_ = 1;   // the length, the smallest, or the median
  double second_ = 0;  // -, the largest, or sigma
};

struct LoadOptions {
  size_t num_requests = 16;
  double requests_per_second = 1;  // on average; arrivals are a Poisson process
  LengthDistribution prompt_tokens = {};
  std::optional<LengthDistribution> output_tokens = {};
  uint64_t seed = 0;
};
std::vector<PlannedRequest> PlanPoisson(const LoadOptions& options);

// The prompt of a plan's `index`-th request: ids below vocab_tokens.
std::vector<uint32_t> PlannedPrompt(const PlannedRequest& planned, uint64_t seed, uint64_t index,
                                    uint32_t vocab_tokens);

// A trace: JSON lines {"timestamp": ms, "input_length": tokens, "output_length": tokens,
// "hash_ids": [of each block]}, the last of which may be missing, the format of Mooncake's
// published traces (arXiv 2407.00079); other fields are passed over. Arrivals
// are divided by `speed` and count from the first line's. Errors: NotFound for the file,
// InvalidArgument naming line and field.
absl::StatusOr<std::vector<PlannedRequest>> ReadTrace(const std::string& path, double speed);

}  // namespace kvship
