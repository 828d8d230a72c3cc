#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "kernels/cuda/cudnn_attention.h"
#include "kernels/cuda/product.h"

namespace kvship::cuda {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Also without a device, where making either fails later.
TEST(LibrariesTest, HaveEveryFunctionThatIsCalled) {
  for (const absl::Status& status :
       {Products::Create().status(), CudnnAttention::Create().status()}) {
    if (absl::StrContains(status.message(), "cannot be opened")) GTEST_SKIP() << status;
    EXPECT_THAT(status.message(), Not(HasSubstr("has no function")));
  }
}

}  // namespace
}  // namespace kvship::cuda
