// What the processor has beyond Highway's targets.
#pragma once

namespace kvship {

// True where code compiled for HWY_AVX3 with VNNI must not run, though that is Highway's choice:
// the first AVX-512 processors lack it. Cheap enough for every call of a kernel; to ask Highway
// what the processor supports is not (CPUID, for which a virtual machine leaves its guest).
bool UseAvx2InsteadOfAvx3();

}  // namespace kvship
