#include "compress/scorer.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "compress/scorers.h"

namespace kvship {
namespace {

struct NamedScorer {
  absl::string_view name;
  ScorerFactory* make;
};

constexpr std::array kScorers = {
    NamedScorer{"snapkv", MakeSnapKv},
    NamedScorer{"h2o", MakeH2o},
    NamedScorer{"tova", MakeTova},
    NamedScorer{"streaming_llm", MakeStreamingLlm},
    NamedScorer{"knorm", MakeKNorm},
    NamedScorer{"keydiff", MakeKeyDiff},
    NamedScorer{"expected_attention", MakeExpectedAttention},
    NamedScorer{"random", MakeRandom},
};

}  // namespace

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
