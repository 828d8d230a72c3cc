#include "kernels/cuda/product.h"

#include <cstdint>

#include "base/status_macros.h"
#include "kernels/cuda/cublas_lt.h"

namespace kvship::cuda {
namespace {

// What NVIDIA recommends on Hopper.
constexpr size_t kWorkspaceBytes = 32 << 20;
// Shapes whose choice is kept: the last block of a prompt has any number of tokens.
constexpr size_t kMostPlans = 4096;

// Of the three addresses of a product, up to what cuBLASLt takes for granted unless it is told
// less: a row of a block may begin at any 16 bytes.
uint32_t AlignmentOf(const ProductArgs& args) {
  constexpr uintptr_t kMostAlignment = 256;
  uintptr_t bits = kMostAlignment;
  for (const void* address : {args.x, args.weights, static_cast<const void*>(args.out)}) {
    bits |= reinterpret_cast<uintptr_t>(address);
  }
  return static_cast<uint32_t>(bits & -bits);
}

absl::Status CublasStatus(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", Lt().get_status_string(status)));
}

absl::StatusOr<cudaDataType_t> DataType(DType dtype) {
  switch (dtype) {
    case DType::kF32: return CUDA_R_32F;
    case DType::kF16: return CUDA_R_16F;
    case DType::kBf16: return CUDA_R_16BF;
    default: return absl::InvalidArgumentError("dtype: wanted f32, f16 or bf16");
  }
}

}  // namespace

// How the operands of one shape lie, and the algorithm chosen for it. cuBLAS counts columns first:
// its matrices are ours transposed, and out^T = weights x^T.
struct Products::Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weights = nullptr, x = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};

  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (operation != nullptr) Lt().desc_destroy(operation);
    for (cublasLtMatrixLayout_t layout : {weights, x, out}) {
      if (layout != nullptr) Lt().layout_destroy(layout);
    }
  }

  absl::Status Describe(const ProductArgs& args) {
    ASSIGN_OR_RETURN(const cudaDataType_t type, DataType(args.dtype));
    ASSIGN_OR_RETURN(const cudaDataType_t out_type, DataType(args.out_dtype));
    const cublasOperation_t transpose = CUBLAS_OP_T;
    RETURN_IF_ERROR(
        CublasStatus(Lt().desc_create(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "product"));
    RETURN_IF_ERROR(CublasStatus(Lt().desc_set_attribute(operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                                         &transpose, sizeof transpose),
                                 "product"));
    if (args.bias != nullptr) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      RETURN_IF_ERROR(CublasStatus(Lt().desc_set_attribute(operation, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                           &epilogue, sizeof epilogue),
                                   "product with a bias"));
      RETURN_IF_ERROR(UseBias(args.bias));
    }
    RETURN_IF_ERROR(Layout(&weights, type, args.cols, args.rows));
    RETURN_IF_ERROR(Layout(&x, type, args.cols, args.num_tokens));
    return Layout(&out, out_type, args.rows, args.num_tokens);
  }

  absl::Status UseBias(const void* bias) const {
    return CublasStatus(
        Lt().desc_set_attribute(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias),
        "bias of a product");
  }

  static absl::Status Layout(cublasLtMatrixLayout_t* layout, cudaDataType_t type, size_t rows,
                             size_t cols) {
    return CublasStatus(Lt().layout_create(layout, type, rows, cols, static_cast<int64_t>(rows)),
                        "layout of a matrix");
  }

  absl::Status Choose(cublasLtHandle_t handle, uint32_t alignment) {
    cublasLtMatmulPreference_t preference;
    RETURN_IF_ERROR(CublasStatus(Lt().preference_create(&preference), "preference"));
    Lt().preference_set_attribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                  &kWorkspaceBytes, sizeof kWorkspaceBytes);
    // Sums that were cut in parts are added in float32, in a fixed order.
    constexpr uint32_t kReductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    Lt().preference_set_attribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                  &kReductions, sizeof kReductions);
    for (const auto operand :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      Lt().preference_set_attribute(preference, operand, &alignment, sizeof alignment);
    }
    cublasLtMatmulHeuristicResult_t best = {};
    int found = 0;
    const cublasStatus_t status = Lt().algo_get_heuristic(handle, operation, weights, x, out, out,
                                                          preference, 1, &best, &found);
    Lt().preference_destroy(preference);
    RETURN_IF_ERROR(CublasStatus(status, "choice of an algorithm"));
    if (found == 0) return absl::UnimplementedError("cuBLASLt has no algorithm");
    algorithm = best.algo;
    return absl::OkStatus();
  }
};

absl::Status FindCublasLt() { return Lt().library.status(); }

absl::StatusOr<std::unique_ptr<Products>> Products::Create() {
  RETURN_IF_ERROR(FindCublasLt());
  std::unique_ptr<Products> products(new Products);
  RETURN_IF_ERROR(CublasStatus(Lt().create(&products->handle_), "cuBLASLt"));
  ASSIGN_OR_RETURN(products->workspace_, DeviceBuffer::Create(kWorkspaceBytes));
  return products;
}

Products::~Products() {
  if (handle_ != nullptr) Lt().destroy(handle_);
}

absl::StatusOr<const Products::Plan*> Products::PlanFor(const ProductArgs& args) {
  const uint32_t alignment = AlignmentOf(args);
  const Key key(args.num_tokens, args.rows, args.cols, args.dtype, args.out_dtype, args.accumulate,
                args.bias != nullptr, alignment);
  const auto known = plans_.find(key);
  if (known != plans_.end()) return known->second.get();
  if (plans_.size() == kMostPlans) plans_.clear();
  auto plan = std::make_unique<Plan>();
  RETURN_IF_ERROR(plan->Describe(args));
  RETURN_IF_ERROR(plan->Choose(handle_, alignment));
  return plans_.emplace(key, std::move(plan)).first->second.get();
}

absl::Status Products::Run(cudaStream_t stream, const ProductArgs& args) {
  if (args.num_tokens < 1 || args.rows < 1 || args.cols < 8 || args.cols % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a product of ", args.num_tokens, " tokens with ", args.rows, " x ", args.cols,
                     " weights: wanted at least one of each, and columns in multiples of 8"));
  }
  ASSIGN_OR_RETURN(const Plan* plan, PlanFor(args));
  if (args.bias != nullptr) RETURN_IF_ERROR(plan->UseBias(args.bias));
  const float alpha = 1.0f, beta = args.accumulate ? 1.0f : 0.0f;
  return CublasStatus(
      Lt().matmul(handle_, plan->operation, &alpha, args.weights, plan->weights, args.x, plan->x,
                  &beta, args.out, plan->out, args.out, plan->out, &plan->algorithm,
                  workspace_.data(), workspace_.num_bytes(), stream),
      "product");
}

}  // namespace kvship::cuda
