// The registry of scorers, allocators and selectors, and the rules for combining them. The decode
// side uses it to plan and the prefill side to score; compress/ has the code behind each name. A
// new scorer is one line in scorers.inc. Immutable; any thread may use it.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kvship {

struct CompressionOptions;

struct ScorerTraits {
  absl::string_view name;
  size_t sinks;  // always kept at the start by default
  // Tokens always kept at the end by default.
  enum class Recent { kOne, kWindow, kHalf, kAllButSinks } recent;
  // What the scorer sees of a layer besides keys and values: the queries of the plan's window, and
  // either each key's attention summed over all queries, or the moments of the queries after the
  // sinks.
  enum class Observes { kWindow, kColumnSums, kMoments } observes;
  // The scores rank a head's tokens. False for streaming_llm, which keeps only its always-kept
  // tokens.
  bool orders_tokens;
  // Each head has its own scores; otherwise one set serves the whole layer.
  bool per_head;
  // Scores of different heads can be compared, as ada does.
  bool comparable_heads;
  // Query heads of a group vote by group_reduce, so a set of tokens per query head is possible.
  bool reduces_groups;
  // Tokens from the window's start on have scores. If false, they rank below all that have.
  bool scores_window;
};

std::span<const ScorerTraits> Scorers();
std::span<const absl::string_view> Allocators();
std::span<const absl::string_view> Selectors();

// `scorer` must be one of Scorers().
const ScorerTraits& TraitsOf(absl::string_view scorer);

// InvalidArgument, with the reason, if the options' parts cannot be combined.
absl::Status CheckCombination(const CompressionOptions& options);

}  // namespace kvship
