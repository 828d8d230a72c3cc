// The factories of the scorers in kv/scorers.inc, each defined in the file of its scorer.
#pragma once

#include <memory>

#include "compress/scorer.h"

namespace kvship {

using ScorerFactory = std::unique_ptr<Scorer>(const CompressionOptions& options,
                                              const KvShape& shape, const KvPlan& plan);

#define KVSHIP_SCORER(name, factory, ...) ScorerFactory factory;
#include "kv/scorers.inc"
#undef KVSHIP_SCORER

}  // namespace kvship
