// Random numbers, the same for the same seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/random.h"

namespace kvship {

// Of [-scale, scale).
inline std::vector<float> RandomFloats(uint64_t seed, size_t count, double scale = 1.0) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) {
    out[i] = static_cast<float>((2 * UniformUnit(seed, i) - 1) * scale);
  }
  return out;
}

}  // namespace kvship
