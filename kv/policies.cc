#include "kv/policies.h"

#include <algorithm>
#include <array>
#include <cassert>

#include "absl/strings/str_cat.h"
#include "kv/compression_options.h"

namespace kvship {
namespace {

using Recent = ScorerTraits::Recent;
using Observes = ScorerTraits::Observes;

constexpr auto kScorers = std::to_array<ScorerTraits>({
#define KVSHIP_SCORER(name, factory, ...) {#name, __VA_ARGS__},
#include "kv/scorers.inc"
#undef KVSHIP_SCORER
});
constexpr std::array<absl::string_view, 4> kAllocators = {"uniform", "pyramid", "ada", "mass"};
constexpr std::array<absl::string_view, 2> kSelectors = {"tokens", "chunks"};

absl::Status Refuse(absl::string_view option, absl::string_view value, absl::string_view reason) {
  return absl::InvalidArgumentError(
      absl::StrCat("compression option ", option, " is '", value, "'; ", reason));
}

}  // namespace

std::span<const ScorerTraits> Scorers() { return kScorers; }
std::span<const absl::string_view> Allocators() { return kAllocators; }
std::span<const absl::string_view> Selectors() { return kSelectors; }

const ScorerTraits& TraitsOf(absl::string_view scorer) {
  const auto* found = std::find_if(kScorers.begin(), kScorers.end(),
                                   [&](const ScorerTraits& t) { return t.name == scorer; });
  assert(found != kScorers.end());
  return *found;
}

absl::Status CheckCombination(const CompressionOptions& options) {
  const ScorerTraits& traits = TraitsOf(options.scorer);
  const bool ragged = options.allocator == "ada" || options.allocator == "mass";
  if (!traits.orders_tokens && (ragged || options.selector == "chunks")) {
    return Refuse("scorer", options.scorer,
                  absl::StrCat("it keeps the first and the last tokens and ranks none, wanted "
                               "allocator uniform or pyramid and selector tokens, not ",
                               options.allocator, " and ", options.selector));
  }
  if (!traits.per_head && ragged) {
    return Refuse("allocator", options.allocator,
                  absl::StrCat(options.scorer,
                               " keeps one set for all heads of a layer, wanted "
                               "uniform or pyramid with it"));
  }
  if (!traits.comparable_heads && options.allocator == "ada") {
    return Refuse(
        "allocator", options.allocator,
        absl::StrCat("scores of ", options.scorer,
                     " say nothing across heads, wanted uniform, pyramid or mass with it"));
  }
  if (ragged && options.selector == "chunks") {
    return Refuse(
        "selector", options.selector,
        absl::StrCat("it keeps one set for all heads of a layer, wanted allocator uniform "
                     "or pyramid with it, not ",
                     options.allocator));
  }
  if (options.group_reduce == GroupReduce::kNone &&
      (!traits.reduces_groups || options.selector == "chunks")) {
    return Refuse("group_reduce", "none",
                  absl::StrCat("wanted with scorer snapkv or h2o and selector tokens, not ",
                               options.scorer, " and ", options.selector));
  }
  return absl::OkStatus();
}

}  // namespace kvship
