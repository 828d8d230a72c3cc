// Makes the part of a request's final report about its prompt's cache. A pure function.
#pragma once

#include <span>

#include "kv/frames.h"
#include "kv/sequence.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

// Reports on a cache whose layers have all arrived. Leaves out `compression` and what only the
// transfer knows (shipped_bytes, transport).
v1::KvReport MakeKvReport(const SequenceCache& cache, std::span<const LayerHeader> layers);

}  // namespace kvship
