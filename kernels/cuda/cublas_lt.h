// The functions of cuBLASLt that products use. The library takes half a gigabyte of address space
// and only a GPU needs it, so it is opened at first use.
#pragma once

#include <cublasLt.h>

#include "absl/strings/str_cat.h"
#include "base/shared_library.h"

namespace kvship::cuda {

struct CublasLt {
  SharedLibrary library{absl::StrCat("libcublasLt.so.", CUBLAS_VER_MAJOR),
                        absl::StrCat("cuBLAS of CUDA ", CUBLAS_VER_MAJOR)};
  decltype(&cublasLtCreate) create = library.Find("cublasLtCreate");
  decltype(&cublasLtDestroy) destroy = library.Find("cublasLtDestroy");
  decltype(&cublasLtGetStatusString) get_status_string = library.Find("cublasLtGetStatusString");
  decltype(&cublasLtMatmul) matmul = library.Find("cublasLtMatmul");
  decltype(&cublasLtMatmulDescCreate) desc_create = library.Find("cublasLtMatmulDescCreate");
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = library.Find("cublasLtMatmulDescDestroy");
  decltype(&cublasLtMatmulDescSetAttribute) desc_set_attribute =
      library.Find("cublasLtMatmulDescSetAttribute");
  decltype(&cublasLtMatrixLayoutCreate) layout_create = library.Find("cublasLtMatrixLayoutCreate");
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy =
      library.Find("cublasLtMatrixLayoutDestroy");
  decltype(&cublasLtMatmulPreferenceCreate) preference_create =
      library.Find("cublasLtMatmulPreferenceCreate");
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy =
      library.Find("cublasLtMatmulPreferenceDestroy");
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set_attribute =
      library.Find("cublasLtMatmulPreferenceSetAttribute");
  decltype(&cublasLtMatmulAlgoGetHeuristic) algo_get_heuristic =
      library.Find("cublasLtMatmulAlgoGetHeuristic");
};

// None of the functions may be called unless FindCublasLt (product.h) is OK.
inline const CublasLt& Lt() {
  static const CublasLt library;
  return library;
}

}  // namespace kvship::cuda
