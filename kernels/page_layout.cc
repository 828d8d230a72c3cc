#include "kernels/page_layout.h"

namespace kvship {

const char* PageFormatName(PageFormat format) {
  switch (format) {
    case PageFormat::kF32: return "f32";
    case PageFormat::kF16: return "f16";
    case PageFormat::kBf16: return "bf16";
    case PageFormat::kFp8: return "fp8";
    case PageFormat::kInt8: return "int8";
    case PageFormat::kInt4: return "int4";
  }
  return "unknown";
}

}  // namespace kvship
