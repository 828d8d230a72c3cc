// NeedsOf says what a request's compression observes of each layer. Both sides go by it: the
// prefill node's engine, and a decode node that guesses how much of a prompt another can reuse.
#pragma once

#include "kv/compression_options.h"
#include "kv/layer_view.h"
#include "kv/plan.h"

namespace kvship {

// What the engine must deliver with each layer, on the CPU and on a GPU. `plan` is MakePlan's for
// `options`.
LayerNeeds NeedsOf(const CompressionOptions& options, const KvPlan& plan);

}  // namespace kvship
