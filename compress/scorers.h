// The factories of the scorers, each defined in the file of its scorer.
#pragma once

#include <memory>

#include "compress/scorer.h"

namespace kvship {

using ScorerFactory = std::unique_ptr<Scorer>(const CompressionOptions& options,
                                              const KvShape& shape, const KvPlan& plan);

ScorerFactory MakeSnapKv;
ScorerFactory MakeH2o;
ScorerFactory MakeTova;
ScorerFactory MakeStreamingLlm;
ScorerFactory MakeKNorm;
ScorerFactory MakeKeyDiff;
ScorerFactory MakeExpectedAttention;
ScorerFactory MakeRandom;

}  // namespace kvship
