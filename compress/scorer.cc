#include "compress/scorer.h"

#include "absl/strings/str_cat.h"
#include "compress/scorers.h"
#include "kv/policies.h"

namespace kvship {
namespace {

struct NamedScorer {
  absl::string_view name;
  ScorerFactory* make;
};

constexpr auto kScorers = std::to_array<NamedScorer>({
#define KVSHIP_SCORER(name, factory, ...) {#name, factory},
#include "kv/scorers.inc"
#undef KVSHIP_SCORER
});

}  // namespace

size_t NumScored(const CompressionOptions& options, const KvPlan& plan) {
  return TraitsOf(options.scorer).scores_window ? plan.prompt_tokens : plan.window_begin;
}

absl::StatusOr<std::unique_ptr<Scorer>> MakeScorer(const CompressionOptions& options,
                                                   const KvShape& shape, const KvPlan& plan) {
  for (const NamedScorer& scorer : kScorers) {
    if (scorer.name == options.scorer) return scorer.make(options, shape, plan);
  }
  std::string names;
  for (const NamedScorer& scorer : kScorers) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", scorer.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("compression option scorer is '", options.scorer, "'; wanted one of ", names));
}

}  // namespace kvship
