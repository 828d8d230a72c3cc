#include "kernels/cuda/cudnn_attention.h"

#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

struct Case {
  DType dtype;
  size_t query_heads, kv_heads, head_dim, first, queries;
};

// cuDNN against the plain kernel, whose own test is the definition. What lies past the queries and
// the keys is finite, as the engine keeps it, and large, so that reading it would show.
class CudnnAttentionTest : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    auto created = CudnnAttention::Create();
    if (absl::IsUnimplemented(created.status())) GTEST_SKIP() << created.status();
    ASSERT_TRUE(created.ok()) << created.status();
    cudnn_ = *std::move(created);
  }

  void ExpectThePlainKernelsResult(const Case& c) {
    SCOPED_TRACE(testing::Message() << "Hq " << c.query_heads << " H " << c.kv_heads << " D "
                                    << c.head_dim << " first " << c.first << " M " << c.queries);
    const size_t bucket = AttentionBucket(c.queries), keys_end = c.first + c.queries;
    const size_t key_rows = AttentionBucket(keys_end);
    const size_t q_row = (c.query_heads + 2 * c.kv_heads) * c.head_dim;
    const Tensor16 q = RandomTensor(c.dtype, bucket * q_row, 1);
    Tensor16 keys = RandomTensor(c.dtype, c.kv_heads * key_rows * c.head_dim, 2);
    Tensor16 values = RandomTensor(c.dtype, keys.bits.size(), 3);
    for (size_t i = 0; i < keys.bits.size(); ++i) {
      if (i / c.head_dim % key_rows < keys_end) continue;
      keys.bits[i] = values.bits[i] = BitsOf(c.dtype, 100.0f);
    }
    const size_t out_row = c.query_heads * c.head_dim;
    const DeviceArray<uint16_t> device_q(q.bits), device_keys(keys.bits),
        device_values(values.bits), plain(bucket * out_row), out(bucket * out_row);
    const DeviceArray<float> plain_lse(c.query_heads * bucket), lse(c.query_heads * bucket);
    PromptAttentionArgs args = {.q = device_q.data(),
                                .keys = device_keys.data(),
                                .values = device_values.data(),
                                .out = plain.data(),
                                .lse = plain_lse.data(),
                                .dtype = c.dtype,
                                .num_queries = c.queries,
                                .num_query_heads = c.query_heads,
                                .num_kv_heads = c.kv_heads,
                                .head_dim = c.head_dim,
                                .head_stride = key_rows * c.head_dim,
                                .q_row_stride = q_row,
                                .lse_row_stride = bucket,
                                .first_position = c.first};
    ASSERT_TRUE(PromptAttention(nullptr, args).ok());
    args.out = out.data();
    args.lse = lse.data();
    const absl::Status status = cudnn_->Run(nullptr, args);
    ASSERT_TRUE(status.ok()) << status;
    const std::vector<float> want = ValuesOf(c.dtype, plain.ToHost());
    const std::vector<float> got = ValuesOf(c.dtype, out.ToHost());
    const std::vector<float> want_lse = plain_lse.ToHost(), got_lse = lse.ToHost();
    for (size_t m = 0; m < c.queries; ++m) {
      for (size_t h = 0; h < c.query_heads; ++h) {
        ASSERT_NEAR(got_lse[h * bucket + m], want_lse[h * bucket + m], 2e-4) << m << " " << h;
      }
      for (size_t i = 0; i < out_row; ++i) {
        // Both round weights and result to dtype; values are of size 1.
        ASSERT_NEAR(got[m * out_row + i], want[m * out_row + i], 8 * UnitRoundoff(c.dtype))
            << m << " " << i;
      }
    }
  }

  std::unique_ptr<CudnnAttention> cudnn_;
};

TEST_F(CudnnAttentionTest, OfWholeBucketsIsThePlainKernels) {
  ExpectThePlainKernelsResult({DType::kBf16, 4, 2, 128, 0, 128});
  ExpectThePlainKernelsResult({DType::kBf16, 4, 1, 128, 256, 256});
  ExpectThePlainKernelsResult({DType::kF16, 2, 2, 64, 0, 512});
}

TEST_F(CudnnAttentionTest, OfOtherLengthsIsThePlainKernels) {
  ExpectThePlainKernelsResult({DType::kBf16, 4, 2, 128, 0, 1});
  ExpectThePlainKernelsResult({DType::kBf16, 4, 2, 128, 0, 200});
  ExpectThePlainKernelsResult({DType::kBf16, 8, 2, 128, 512, 256});
  ExpectThePlainKernelsResult({DType::kF16, 3, 1, 64, 256, 77});
  ExpectThePlainKernelsResult({DType::kBf16, 4, 4, 128, 1024, 300});
}

}  // namespace
}  // namespace kvship::cuda
