// What scorers, allocators and selectors there are, and what of them goes together: shared by the
// decode side, which plans, and the prefill side, which scores (compress/ has the code behind each
// name). A new scorer is one line in scorers.inc.
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
  // A head's scores order its tokens. Without: streaming_llm, whose choice is its always-kept
  // tokens.
  bool orders_tokens;
  // Each head has scores of its own; else one set serves the whole layer.
  bool per_head;
  // Scores of one head can be held against those of another, as ada does.
  bool comparable_heads;
  // The query heads of a group vote by group_reduce, so that sets per query head are possible.
  bool reduces_groups;
};

std::span<const ScorerTraits> Scorers();
std::span<const absl::string_view> Allocators();
std::span<const absl::string_view> Selectors();

// The traits of a scorer of Scorers().
const ScorerTraits& TraitsOf(absl::string_view scorer);

// InvalidArgument with the reason if the options' parts do not go together.
absl::Status CheckCombination(const CompressionOptions& options);

}  // namespace kvship
