#include "kernels/cpu/processor.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/processor.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

bool IsAvx3() { return HWY_TARGET == HWY_AVX3; }

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {

HWY_EXPORT(IsAvx3);

bool UseAvx2InsteadOfAvx3() {
#if HWY_ARCH_X86
  return HWY_DYNAMIC_DISPATCH(IsAvx3)() && !__builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

}  // namespace kvship
#endif  // HWY_ONCE
