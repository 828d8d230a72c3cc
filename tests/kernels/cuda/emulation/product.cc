// Products of the emulated device, in plain loops.
#include "kernels/cuda/product.h"

#include "base/float16.h"
#include "base/status_macros.h"

namespace kvship::cuda {
namespace {

// That of column n, in the format of the output.
template <class T>
float Bias(const ProductArgs& args, size_t n) {
  if (args.bias == nullptr) return 0;
  return args.out_dtype == DType::kF32 ? static_cast<const float*>(args.bias)[n]
                                       : ToFloat(static_cast<const T*>(args.bias)[n]);
}

template <class T>
void Multiply(const ProductArgs& args) {
  const auto* x = static_cast<const T*>(args.x);
  const auto* weights = static_cast<const T*>(args.weights);
  for (size_t m = 0; m < args.num_tokens; ++m) {
    for (size_t n = 0; n < args.rows; ++n) {
      float sum = Bias<T>(args, n);
      for (size_t k = 0; k < args.cols; ++k) {
        sum += ToFloat(x[m * args.cols + k]) * ToFloat(weights[n * args.cols + k]);
      }
      const size_t at = m * args.rows + n;
      if (args.out_dtype == DType::kF32) {
        float& out = static_cast<float*>(args.out)[at];
        out = sum + (args.accumulate ? out : 0.0f);
      } else {
        T& out = static_cast<T*>(args.out)[at];
        const float whole = sum + (args.accumulate ? ToFloat(out) : 0.0f);
        if constexpr (std::is_same_v<T, f16>) {
          out = ToF16(whole);
        } else {
          out = ToBf16(whole);
        }
      }
    }
  }
}

}  // namespace

struct Products::Plan {};

absl::Status FindCublasLt() { return absl::OkStatus(); }

absl::StatusOr<std::unique_ptr<Products>> Products::Create() {
  return std::unique_ptr<Products>(new Products);
}

Products::~Products() = default;

absl::Status Products::Run(cudaStream_t stream, const ProductArgs& args) {
  if (args.num_tokens < 1 || args.rows < 1 || args.cols < 8 || args.cols % 8 != 0) {
    return absl::InvalidArgumentError("product: wanted columns in multiples of 8");
  }
  return WithElementType(args.dtype, [&](auto element) {
    emulation::Stream::Do(stream, [args] { Multiply<decltype(element)>(args); });
    return absl::OkStatus();
  });
}

}  // namespace kvship::cuda
