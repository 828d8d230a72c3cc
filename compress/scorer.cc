#include "compress/scorer.h"

#include "absl/strings/str_cat.h"
#include "compress/snapkv.h"

namespace kvship {

absl::StatusOr<std::unique_ptr<Scorer>> MakeScorer(const CompressionOptions& options,
                                                   const KvShape& shape) {
  if (options.scorer == "snapkv") return std::make_unique<SnapKvScorer>(options, shape);
  return absl::InvalidArgumentError(
      absl::StrCat("compression option scorer is '", options.scorer, "'; wanted snapkv"));
}

}  // namespace kvship
