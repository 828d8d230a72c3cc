// What the processor has beyond Highway's targets.
#pragma once

#include "hwy/highway.h"

namespace kvship {

#if HWY_ARCH_X86
// True where code compiled for HWY_AVX3 with VNNI must not run, though that is Highway's choice.
inline bool UseAvx2InsteadOfAvx3() {
  return !__builtin_cpu_supports("avx512vnni") && (hwy::SupportedTargets() & HWY_AVX2) != 0;
}
#endif

}  // namespace kvship
