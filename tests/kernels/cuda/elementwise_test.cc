#include "kernels/cuda/elementwise.h"

#include <cmath>
#include <optional>

#include "kernels/page_layout.h"
#include "kernels/token_draw.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

constexpr DType kTypes[] = {DType::kF16, DType::kBf16};

void ExpectRounded(DType dtype, uint16_t got, double expected, double slack = 1e-5) {
  // The result is rounded to dtype once; `slack` is for what float32 rounds before.
  ASSERT_NEAR(ValueOf(dtype, got), expected,
              (UnitRoundoff(dtype) + slack) * std::abs(expected) + 1e-7);
}

using ElementwiseTest = DeviceTest;

TEST_F(ElementwiseTest, EmbedCopiesRowsOfTheTable) {
  const Tensor16 table = RandomTensor(DType::kBf16, 10 * 24, 1);
  const std::vector<int32_t> ids = {9, kNoToken, 3, 3}, rows = {9, 0, 3, 3};
  const DeviceArray<uint16_t> device_table(table.bits), out(4 * 24);
  const DeviceArray<int32_t> device_ids(ids);
  ASSERT_TRUE(Embed(nullptr, {.table = device_table.data(),
                              .ids = device_ids.data(),
                              .out = out.data(),
                              .num_tokens = 4,
                              .width = 24})
                  .ok());
  const std::vector<uint16_t> got = out.ToHost();
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], table.bits[rows[i / 24] * 24 + i % 24]);
}

TEST_F(ElementwiseTest, RmsNormScalesRowsAfterAddingTheResidual) {
  for (DType dtype : kTypes) {
    for (size_t width : {64, 4104, 16384}) {
      constexpr size_t kRows = 3;
      const Tensor16 x = RandomTensor(dtype, kRows * width, 1),
                     added = RandomTensor(dtype, kRows * width, 2);
      const Tensor16 weight = RandomTensor(dtype, width, 3);
      const DeviceArray<uint16_t> device_x(x.bits), device_added(added.bits),
          device_weight(weight.bits);
      const DeviceArray<uint16_t> out(kRows * width);
      ASSERT_TRUE(RmsNorm(nullptr, {.x = device_x.data(),
                                    .residual = device_added.data(),
                                    .weight = device_weight.data(),
                                    .out = out.data(),
                                    .dtype = dtype,
                                    .num_tokens = kRows,
                                    .width = width,
                                    .epsilon = 1e-5f})
                      .ok());
      const std::vector<uint16_t> got = out.ToHost(), sums = device_x.ToHost();
      for (size_t r = 0; r < kRows; ++r) {
        double squares = 0;
        for (size_t c = 0; c < width; ++c) {
          const double sum = double{x.values[r * width + c]} + added.values[r * width + c];
          squares += sum * sum;
        }
        const double factor = 1 / std::sqrt(squares / static_cast<double>(width) + 1e-5);
        for (size_t c = 0; c < width; ++c) {
          const double sum = double{x.values[r * width + c]} + added.values[r * width + c];
          ExpectRounded(dtype, sums[r * width + c], sum);
          ExpectRounded(dtype, got[r * width + c], sum * factor * weight.values[c]);
        }
      }
    }
  }
}

TEST_F(ElementwiseTest, SiluMulGatesTheSecondHalf) {
  for (DType dtype : kTypes) {
    constexpr size_t kRows = 3, kWidth = 776;
    const Tensor16 x = RandomTensor(dtype, kRows * 2 * kWidth, 1, 4.0f);
    const DeviceArray<uint16_t> device_x(x.bits), out(kRows * kWidth);
    ASSERT_TRUE(SiluMul(nullptr, {.gate_up = device_x.data(),
                                  .out = out.data(),
                                  .dtype = dtype,
                                  .num_tokens = kRows,
                                  .width = kWidth})
                    .ok());
    const std::vector<uint16_t> got = out.ToHost();
    for (size_t i = 0; i < got.size(); ++i) {
      const double gate = x.values[i / kWidth * 2 * kWidth + i % kWidth];
      const double up = x.values[i / kWidth * 2 * kWidth + kWidth + i % kWidth];
      ExpectRounded(dtype, got[i], gate / (1 + std::exp(-gate)) * up);
    }
  }
}

// RMS norm of one head in place.
void NormOf(float* x, const std::vector<float>& weight, double epsilon) {
  double squares = 0;
  for (size_t d = 0; d < weight.size(); ++d) squares += double{x[d]} * x[d];
  const double factor = 1 / std::sqrt(squares / static_cast<double>(weight.size()) + epsilon);
  for (size_t d = 0; d < weight.size(); ++d) x[d] = static_cast<float>(x[d] * factor * weight[d]);
}

// Queries, keys and values of a few tokens, their angles, and what turning gives, after a norm
// where one is wanted.
struct RopeCase {
  static constexpr size_t kTokens = 5, kQueryHeads = 4, kKvHeads = 2,
                          kHeads = kQueryHeads + 2 * kKvHeads;

  RopeCase(DType type, RopePairs pairing, size_t dim, bool with_norm = false)
      : dtype(type),
        norm(with_norm),
        head_dim(dim),
        qkv(RandomTensor(type, kTokens * kHeads * dim, 1)),
        query_norm(RandomTensor(type, dim, 3)),
        key_norm(RandomTensor(type, dim, 4)),
        pairs(pairing) {
    std::vector<float> angles(kTokens * dim);
    std::mt19937 random(2);
    for (size_t i = 0; i < angles.size(); i += 2) {
      const float angle = static_cast<float>(random() % 1000) / 100;
      angles[i] = std::cos(angle);
      angles[i + 1] = std::sin(angle);
    }
    for (size_t row = 0; row < kTokens * (kQueryHeads + kKvHeads); ++row) {
      const size_t token = row / (kQueryHeads + kKvHeads), head = row % (kQueryHeads + kKvHeads);
      for (size_t i = 0; i < dim / 2; ++i) {
        const size_t a = pairing == RopePairs::kAdjacent ? 2 * i : i;
        const size_t b = pairing == RopePairs::kAdjacent ? 2 * i + 1 : i + dim / 2;
        float* x = &qkv.values[(token * kHeads + head) * dim];
        if (norm && i == 0) {
          NormOf(x, head < kQueryHeads ? query_norm.values : key_norm.values, kEpsilon);
        }
        const float c = angles[token * dim + 2 * i], s = angles[token * dim + 2 * i + 1];
        const float turned_a = x[a] * c - x[b] * s, turned_b = x[a] * s + x[b] * c;
        x[a] = turned_a;
        x[b] = turned_b;
      }
    }
    device_qkv.emplace(qkv.bits);
    cos_sin.emplace(angles);
    device_query_norm.emplace(query_norm.bits);
    device_key_norm.emplace(key_norm.bits);
  }

  RopeArgs Args() {
    return {.qkv = device_qkv->data(),
            .query_norm = norm ? device_query_norm->data() : nullptr,
            .key_norm = norm ? device_key_norm->data() : nullptr,
            .cos_sin = cos_sin->data(),
            .dtype = dtype,
            .pairs = pairs,
            .num_tokens = kTokens,
            .num_query_heads = kQueryHeads,
            .num_kv_heads = kKvHeads,
            .head_dim = head_dim,
            .norm_epsilon = kEpsilon};
  }
  float Expected(size_t token, size_t head, size_t d) const {
    return qkv.values[(token * kHeads + head) * head_dim + d];
  }
  // A difference of two products may cancel: the error is relative to their size.
  void ExpectTurned(uint16_t got, size_t token, size_t head, size_t d) const {
    ASSERT_NEAR(ValueOf(dtype, got), Expected(token, head, d),
                UnitRoundoff(dtype) * std::abs(Expected(token, head, d)) + (norm ? 8e-6 : 2e-6));
  }

  static constexpr float kEpsilon = 1e-3f;
  DType dtype;
  bool norm;
  size_t head_dim;
  Tensor16 qkv;  // its values: after turning
  Tensor16 query_norm, key_norm;
  RopePairs pairs;
  std::optional<DeviceArray<uint16_t>> device_qkv, device_query_norm, device_key_norm;
  std::optional<DeviceArray<float>> cos_sin;
};

void TurnAPrompt(bool with_norm) {
  for (RopePairs pairs : {RopePairs::kHalves, RopePairs::kAdjacent}) {
    for (DType dtype : kTypes) {
      RopeCase c(dtype, pairs, 64, with_norm);
      constexpr size_t kRows = 9, kFirst = 3;
      const DeviceArray<uint16_t> keys(c.kKvHeads * kRows * 64), values(c.kKvHeads * kRows * 64);
      RopeArgs args = c.Args();
      args.keys = keys.data();
      args.values = values.data();
      args.head_stride = kRows * 64;
      args.first_row = kFirst;
      ASSERT_TRUE(RopeAndStore(nullptr, args).ok());
      const std::vector<uint16_t> q = c.device_qkv->ToHost(), k = keys.ToHost(),
                                  v = values.ToHost();
      for (size_t token = 0; token < c.kTokens; ++token) {
        for (size_t d = 0; d < 64; ++d) {
          for (size_t h = 0; h < c.kQueryHeads; ++h)
            c.ExpectTurned(q[(token * c.kHeads + h) * 64 + d], token, h, d);
          for (size_t h = 0; h < c.kKvHeads; ++h) {
            const size_t at = (h * kRows + kFirst + token) * 64 + d;
            c.ExpectTurned(k[at], token, c.kQueryHeads + h, d);
            ASSERT_EQ(ValueOf(dtype, v[at]), c.Expected(token, c.kQueryHeads + c.kKvHeads + h, d));
          }
        }
      }
      EXPECT_EQ(k[0], 0xffff) << "written before the first row";
    }
  }
}

TEST_F(ElementwiseTest, RopeTurnsAndStoresAPromptsKeysAndValues) { TurnAPrompt(false); }

TEST_F(ElementwiseTest, RopeTurnsWhatTheNormOfQueriesAndKeysGives) { TurnAPrompt(true); }

void TurnADecodeStep(bool with_norm) {
  RopeCase c(DType::kBf16, RopePairs::kHalves, 128, with_norm);
  const size_t page_elements = 2 * kPageTokens * 128;
  const size_t num_pages = c.kTokens * c.kKvHeads;
  const DeviceArray<uint16_t> memory(num_pages * page_elements);
  std::vector<std::byte*> pages;
  for (size_t i = 0; i < num_pages; ++i) {
    pages.push_back(
        reinterpret_cast<std::byte*>(memory.data() + (num_pages - 1 - i) * page_elements));
  }
  const std::vector<int32_t> slots = {0, 31, 5, 7, 16};
  const DeviceArray<std::byte*> device_pages(pages);
  const DeviceArray<int32_t> device_slots(slots);
  RopeArgs args = c.Args();
  args.pages = device_pages.data();
  args.slots = device_slots.data();
  ASSERT_TRUE(RopeAndStore(nullptr, args).ok());
  const std::vector<uint16_t> got = memory.ToHost();
  for (size_t token = 0; token < c.kTokens; ++token) {
    for (size_t h = 0; h < c.kKvHeads; ++h) {
      const size_t page = (num_pages - 1 - (token * c.kKvHeads + h)) * page_elements;
      for (size_t d = 0; d < 128; ++d) {
        const size_t at = page + slots[token] * 128 + d;
        c.ExpectTurned(got[at], token, c.kQueryHeads + h, d);
        ASSERT_EQ(ValueOf(DType::kBf16, got[at + kPageTokens * 128]),
                  c.Expected(token, c.kQueryHeads + c.kKvHeads + h, d));
      }
    }
  }
}

TEST_F(ElementwiseTest, RopeStoresADecodeStepsTokensInTheirPages) { TurnADecodeStep(false); }

TEST_F(ElementwiseTest, RopeStoresADecodeStepsNormedTokensInTheirPages) { TurnADecodeStep(true); }

TEST_F(ElementwiseTest, RopeWantsBothNormsAndHeadsThatWarpsHoldWhole) {
  RopeCase c(DType::kBf16, RopePairs::kHalves, 128, /*with_norm=*/true);
  RopeArgs args = c.Args();
  args.head_stride = 128 * c.kTokens;
  args.key_norm = nullptr;
  EXPECT_FALSE(RopeAndStore(nullptr, args).ok());
  args = c.Args();
  args.head_stride = 128 * c.kTokens;
  args.head_dim = 80;
  EXPECT_FALSE(RopeAndStore(nullptr, args).ok());
}

}  // namespace
}  // namespace kvship::cuda
