// What kernels/cuda/product.h names of cuBLASLt; product.cc beside does without it.
#pragma once

using cublasLtHandle_t = struct EmulatedCublasLt*;
