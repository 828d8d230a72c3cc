// What a request's final report says of its prompt's cache.
#pragma once

#include <span>

#include "kv/frames.h"
#include "kv/sequence.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

// The report of a cache whose layers have all come, without what only the transfer knows
// (shipped_bytes, transport) and without `compression`.
v1::KvReport MakeKvReport(const SequenceCache& cache, std::span<const LayerHeader> layers);

}  // namespace kvship
