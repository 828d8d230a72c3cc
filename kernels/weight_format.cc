#include "kernels/weight_format.h"

namespace kvship {

const char* WeightFormatName(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32: return "F32";
    case WeightFormat::kF16: return "F16";
    case WeightFormat::kBf16: return "BF16";
    case WeightFormat::kQ8_0: return "Q8_0";
    case WeightFormat::kQ4_0: return "Q4_0";
    case WeightFormat::kQ4_1: return "Q4_1";
    case WeightFormat::kQ5_0: return "Q5_0";
    case WeightFormat::kQ5_1: return "Q5_1";
    case WeightFormat::kIQ4_NL: return "IQ4_NL";
    case WeightFormat::kQ2_K: return "Q2_K";
    case WeightFormat::kQ3_K: return "Q3_K";
    case WeightFormat::kQ4_K: return "Q4_K";
    case WeightFormat::kQ5_K: return "Q5_K";
    case WeightFormat::kQ6_K: return "Q6_K";
    case WeightFormat::kIQ4_XS: return "IQ4_XS";
  }
  return "unknown";
}

}  // namespace kvship
