#include "kernels/cuda/window_votes.h"

#include <cmath>
#include <optional>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/window_sums.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

struct Case {
  DType dtype;
  size_t query_heads, kv_heads, window, tokens, head_dim;
};

// The inputs of one case, and what the definition gives in double precision.
struct Votes {
  // The softmax runs over the first num_keys keys.
  explicit Votes(const Case& c) : Votes(c, c.tokens) {}
  Votes(const Case& c, size_t num_keys)
      : q(RandomTensor(c.dtype, c.query_heads * c.window * c.head_dim, 1)),
        keys(RandomTensor(c.dtype, c.kv_heads * c.tokens * c.head_dim, 2)),
        lse(c.query_heads * c.window),
        expected(c.query_heads * c.tokens, 0.0),
        device_q(q.bits),
        device_keys(keys.bits) {
    const size_t first = c.tokens - c.window;
    std::vector<double> scores(c.tokens);
    for (size_t row = 0; row < lse.size(); ++row) {
      const size_t head = row / c.window;
      const size_t visible = std::min(num_keys, first + row % c.window + 1);
      const float* k = &keys.values[head / (c.query_heads / c.kv_heads) * c.tokens * c.head_dim];
      double sum = 0;
      for (size_t i = 0; i < visible; ++i) {
        double dot = 0;
        for (size_t d = 0; d < c.head_dim; ++d) {
          dot += double{q.values[row * c.head_dim + d]} * k[i * c.head_dim + d];
        }
        scores[i] = dot / std::sqrt(static_cast<double>(c.head_dim));
        sum += std::exp(scores[i]);
      }
      lse[row] = static_cast<float>(std::log(sum));
      for (size_t i = 0; i < visible; ++i) {
        expected[head * c.tokens + i] += std::exp(scores[i] - std::log(sum));
      }
    }
    device_lse.emplace(lse);
    args = {.q = device_q.data(),
            .keys = device_keys.data(),
            .lse = device_lse->data(),
            .dtype = c.dtype,
            .num_query_heads = c.query_heads,
            .num_kv_heads = c.kv_heads,
            .window = c.window,
            .num_keys = num_keys,
            .head_dim = c.head_dim,
            .q_head_stride = c.window * c.head_dim,
            .q_row_stride = c.head_dim,
            .lse_head_stride = c.window,
            .key_head_stride = c.tokens * c.head_dim,
            .votes_row_stride = c.tokens,
            .first_position = first};
  }

  // The log-sum-exp by a pass of its own.
  std::vector<float> Sum() {
    const DeviceArray<float> out(lse.size());
    const DeviceArray<std::byte> workspace(
        WindowLogSumExpWorkspaceBytes(args.num_query_heads, args.window, args.num_keys));
    EXPECT_EQ(WindowLogSumExp(nullptr, {.q = args.q,
                                        .keys = args.keys,
                                        .lse = out.data(),
                                        .workspace = workspace.data(),
                                        .dtype = args.dtype,
                                        .num_query_heads = args.num_query_heads,
                                        .num_kv_heads = args.num_kv_heads,
                                        .window = args.window,
                                        .num_keys = args.num_keys,
                                        .head_dim = args.head_dim,
                                        .q_head_stride = args.window * args.head_dim,
                                        .lse_head_stride = args.window,
                                        .key_head_stride = args.key_head_stride,
                                        .first_position = args.first_position}),
              absl::OkStatus());
    return out.ToHost();
  }

  Tensor16 q, keys;
  std::vector<float> lse;
  std::vector<double> expected;
  DeviceArray<uint16_t> device_q, device_keys;
  std::optional<DeviceArray<float>> device_lse;
  WindowVotesArgs args;
};

using WindowVotesTest = DeviceTest;

using Operation = absl::Status (*)(cudaStream_t, const WindowVotesArgs&);

// Every way to the votes that the device has.
std::vector<Operation> Operations() {
  std::vector<Operation> operations = {WindowVotesSm80, WindowVotesNaive};
  if (*IsHopper()) operations.insert(operations.end(), {WindowVotesSm90, WindowVotesTma});
  return operations;
}

const Case kCases[] = {
    {DType::kBf16, 8, 2, 32, 300, 128}, {DType::kF16, 8, 2, 32, 257, 64},
    {DType::kBf16, 4, 4, 16, 130, 128}, {DType::kBf16, 9, 3, 20, 100, 64},
    {DType::kF16, 4, 2, 64, 200, 128},  {DType::kBf16, 7, 1, 64, 64, 64},
    {DType::kBf16, 12, 1, 32, 70, 128}, {DType::kF16, 2, 1, 1, 1, 64},
};

void ExpectVotes(const Case& c, Votes& votes, Operation operation) {
  DeviceArray<float> out(c.query_heads * c.tokens);
  votes.args.votes = out.data();
  ASSERT_TRUE(operation(nullptr, votes.args).ok());
  const std::vector<float> got = out.ToHost();
  // A score's error, D 2^-24 times the sum of |q k| / sqrt(D) (about 0.64 sqrt(D)), is the
  // vote's relative error; as much again for lse and exp.
  const double tolerance = 4 * c.head_dim * 0x1p-24 * 0.64 * std::sqrt(c.head_dim);
  for (size_t i = 0; i < got.size(); ++i) {
    if (i % c.tokens >= votes.args.num_keys) continue;
    ASSERT_NEAR(got[i], votes.expected[i], tolerance * votes.expected[i] + 1e-12) << "at " << i;
  }
}

TEST_F(WindowVotesTest, AreTheProbabilitiesSummedOverTheWindow) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << "Hq " << c.query_heads << " H " << c.kv_heads << " W "
                                    << c.window << " T " << c.tokens << " D " << c.head_dim);
    Votes votes(c);
    for (const Operation operation : Operations()) {
      ExpectVotes(c, votes, operation);
    }
  }
}

// Rings of tiles are used again and again, with few and with many columns of queries.
TEST_F(WindowVotesTest, OfManyTilesAreThoseOfEachTile) {
  for (const Case& c :
       {Case{DType::kBf16, 3, 3, 16, 2500, 64}, Case{DType::kF16, 24, 3, 60, 1100, 128},
        Case{DType::kBf16, 10, 1, 64, 130, 64}}) {
    SCOPED_TRACE(testing::Message() << "Hq " << c.query_heads << " T " << c.tokens);
    Votes votes(c);
    for (const Operation operation : Operations()) ExpectVotes(c, votes, operation);
  }
}

TEST_F(WindowVotesTest, ComeInTwoPassesWhereThereIsNoLogSumExp) {
  std::vector<Case> cases(std::begin(kCases), std::end(kCases));
  cases.push_back({DType::kF16, 2, 1, 8, 2500, 64});  // three parts
  for (const Case& c : cases) {
    for (size_t num_keys : {c.tokens, c.tokens - c.window}) {
      if (num_keys == 0) continue;
      SCOPED_TRACE(testing::Message()
                   << "Hq " << c.query_heads << " H " << c.kv_heads << " W " << c.window << " T "
                   << c.tokens << " D " << c.head_dim << " over " << num_keys);
      Votes votes(c, num_keys);
      const std::vector<float> lse = votes.Sum();
      for (size_t row = 0; row < lse.size(); ++row) {
        ASSERT_NEAR(lse[row], votes.lse[row], 1e-5 * std::abs(votes.lse[row]) + 2e-5) << row;
      }
      EXPECT_EQ(votes.Sum(), lse) << "another time";
      const DeviceArray<float> device_lse(lse);
      votes.args.lse = device_lse.data();
      ExpectVotes(c, votes, WindowVotes);
    }
  }
}

// Queries as they come from the product, row after row, with what else is in a row.
TEST_F(WindowVotesTest, AccumulatedOverWindowsAreTheColumnSumsOfTheWholePrompt) {
  constexpr size_t kRow = 5 * 64, kLseRow = 160;
  const Case c = {DType::kF16, 4, 2, 150, 150, 64};
  Votes votes(c);  // as if one window held all queries
  std::vector<uint16_t> rows(c.tokens * kRow, BitsOf(c.dtype, NAN));
  std::vector<float> lse(c.query_heads * kLseRow, NAN);
  for (size_t head = 0; head < c.query_heads; ++head) {
    for (size_t i = 0; i < c.tokens; ++i) {
      std::copy_n(&votes.q.bits[(head * c.tokens + i) * 64], 64, &rows[i * kRow + head * 64]);
      lse[head * kLseRow + i] = votes.lse[head * c.tokens + i];
    }
  }
  const DeviceArray<uint16_t> device_rows(rows);
  const DeviceArray<float> device_lse(lse);
  for (const Operation operation : Operations()) {
    const DeviceArray<float> sums(std::vector<float>(c.query_heads * c.tokens, 0.0f));
    WindowVotesArgs args = votes.args;
    args.votes = sums.data();
    args.q_head_stride = 64;
    args.q_row_stride = kRow;
    args.lse_head_stride = kLseRow;
    args.accumulate = true;
    for (size_t begin = 0; begin < c.tokens; begin += args.window) {
      args.window = begin == 0 ? 20 : std::min<size_t>(64, c.tokens - begin);
      args.q = device_rows.data() + begin * kRow;
      args.lse = device_lse.data() + begin;
      args.first_position = begin;
      args.num_keys = begin + args.window;
      ASSERT_EQ(operation(nullptr, args), absl::OkStatus());
    }
    const std::vector<float> got = sums.ToHost();
    // As ExpectVotes(), and a rounding per window.
    const double tolerance = 4 * 64 * 0x1p-24 * 0.64 * 8 + 4 * 0x1p-24;
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_NEAR(got[i], votes.expected[i], tolerance * votes.expected[i]) << "at " << i;
    }
  }
}

TEST_F(WindowVotesTest, OfAKeyDoNotDependOnTheNumberOfKeys) {
  const Votes votes({DType::kBf16, 4, 1, 32, 500, 128});
  for (const Operation operation : Operations()) {
    const DeviceArray<float> all(4 * 500), some(4 * 500);
    WindowVotesArgs args = votes.args;
    args.votes = all.data();
    ASSERT_TRUE(operation(nullptr, args).ok());
    args.votes = some.data();
    args.num_keys = 323;
    ASSERT_TRUE(operation(nullptr, args).ok());
    const std::vector<float> a = all.ToHost(), b = some.ToHost();
    for (size_t head = 0; head < 4; ++head) {
      for (size_t i = 0; i < 323; ++i) EXPECT_EQ(a[head * 500 + i], b[head * 500 + i]);
      EXPECT_TRUE(std::isnan(b[head * 500 + 323])) << "written past the last key";
    }
  }
}

TEST_F(WindowVotesTest, OfALongPromptAgreeWithTheNaiveKernelAndRepeatBitForBit) {
  constexpr size_t kTokens = 50000, kQueryHeads = 8;
  const Tensor16 q = RandomTensor(DType::kBf16, kQueryHeads * 32 * 128, 1);
  const Tensor16 keys = RandomTensor(DType::kBf16, 2 * kTokens * 128, 2);
  const DeviceArray<uint16_t> device_q(q.bits), device_keys(keys.bits);
  const DeviceArray<float> lse(std::vector<float>(kQueryHeads * 32, 11.0f));
  const DeviceArray<float> out(kQueryHeads * kTokens);
  const WindowVotesArgs args = {.q = device_q.data(),
                                .keys = device_keys.data(),
                                .lse = lse.data(),
                                .votes = out.data(),
                                .num_query_heads = kQueryHeads,
                                .num_kv_heads = 2,
                                .window = 32,
                                .num_keys = kTokens,
                                .head_dim = 128,
                                .q_head_stride = 32 * 128,
                                .q_row_stride = 128,
                                .lse_head_stride = 32,
                                .key_head_stride = kTokens * 128,
                                .votes_row_stride = kTokens,
                                .first_position = kTokens - 32};
  const auto run = [&](Operation operation) {
    EXPECT_EQ(operation(nullptr, args), absl::OkStatus());
    return out.ToHost();
  };
  const std::vector<float> expected = run(WindowVotesNaive);
  for (const Operation operation : Operations()) {
    const std::vector<float> votes = run(operation);
    EXPECT_EQ(run(operation), votes);
    for (size_t i = 0; i < votes.size(); ++i)
      ASSERT_NEAR(votes[i], expected[i], 5e-4 * expected[i]) << "at " << i;
  }
}

TEST_F(WindowVotesTest, RefuseWhatTheyCannotCompute) {
  Votes votes({DType::kBf16, 4, 2, 32, 64, 64});
  DeviceArray<float> out(4 * 64);
  votes.args.votes = out.data();
  WindowVotesArgs args = votes.args;
  args.window = 65;
  EXPECT_EQ(WindowVotes(nullptr, args).code(), absl::StatusCode::kInvalidArgument);
  args = votes.args;
  args.head_dim = 96;
  args.key_head_stride = 64 * 96;
  EXPECT_EQ(WindowVotes(nullptr, args).code(), absl::StatusCode::kInvalidArgument);
  args = votes.args;
  args.num_query_heads = 5;
  EXPECT_EQ(WindowVotes(nullptr, args).code(), absl::StatusCode::kInvalidArgument);
  args = votes.args;
  args.q_row_stride = 68;
  EXPECT_EQ(WindowVotes(nullptr, args).code(), absl::StatusCode::kInvalidArgument);
  args = votes.args;
  args.lse_head_stride = 31;
  EXPECT_EQ(WindowVotes(nullptr, args).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvship::cuda
