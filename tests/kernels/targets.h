// Makes kernels run as on lesser processors.
#pragma once

#include <cstdint>
#include <vector>

#include "hwy/highway.h"

namespace kvship {

// Runs the rest of the scope as if the processor had these instructions and no more.
class OnTarget {
 public:
  explicit OnTarget(int64_t target) { Set(target); }
  ~OnTarget() { Set(0); }

 private:
  static void Set(int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

// Those that this processor has, but the one that differs from SSE4 by nothing used here.
inline std::vector<int64_t> Targets() {
  std::vector<int64_t> out;
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (target != HWY_SSSE3) out.push_back(target);
  }
  return out;
}

}  // namespace kvship
