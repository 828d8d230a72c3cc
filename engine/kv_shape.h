// The shape of the KV cache of a model.
#pragma once

#include "engine/model_config.h"
#include "kv/shape.h"

namespace kvship {

KvShape ShapeOf(const ModelConfig& config);

}  // namespace kvship
