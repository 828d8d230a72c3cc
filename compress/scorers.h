// Declares the factories of the scorers in kv/scorers.inc. Each scorer's file defines its own.
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
