#include "kernels/cuda/paged_attention.h"

#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include "kernels/attention.h"
#include "kernels/page_layout.h"
#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

struct Lengths {
  uint32_t prefix, tail;
};

PageFormat FormatOf(DType dtype) {
  return dtype == DType::kF16 ? PageFormat::kF16 : PageFormat::kBf16;
}

// Sequences of random keys and values in pages scattered over one block of memory, whose slots that
// do not count are NaN (or codes whose scales are), and what the definition gives in double
// precision. Prefixes are in `format`.
class PagedCase {
 public:
  PagedCase(DType dtype, size_t group, size_t kv_heads, size_t head_dim,
            std::vector<Lengths> lengths)
      : PagedCase(FormatOf(dtype), dtype, group, kv_heads, head_dim, std::move(lengths)) {}
  PagedCase(PageFormat format, DType dtype, size_t group, size_t kv_heads, size_t head_dim,
            std::vector<Lengths> lengths)
      : dtype_(dtype),
        format_(format),
        head_dim_(head_dim),
        q_(RandomTensor(dtype, lengths.size() * group * head_dim, 1)),
        expected_(q_.bits.size()),
        weighed_(q_.bits.size()),
        device_q_(q_.bits),
        out_(q_.bits.size()) {
    for (const Lengths& l : lengths) num_pages_ += PagesFor(l.prefix) + PagesFor(l.tail);
    memory_.assign(num_pages_ * PlaceBytes(), std::byte{0xff});
    std::vector<size_t> first_page;
    size_t used = 0;
    for (size_t r = 0; r < lengths.size(); ++r) {
      first_page.push_back(used);
      used += PagesFor(lengths[r].prefix) + PagesFor(lengths[r].tail);
      Fill(r, lengths[r], first_page.back(), group);
    }
    device_memory_.emplace(memory_);
    std::vector<const std::byte*> table(num_pages_);
    for (size_t i = 0; i < num_pages_; ++i) table[i] = device_memory_->data() + PlaceOf(i);
    table_.emplace(table);
    std::vector<PagedHead> heads;
    std::vector<uint32_t> first_split = {0};
    for (size_t r = 0; r < lengths.size(); ++r) {
      PagedHead head;
      head.prefix_pages = table_->data() + first_page[r];
      head.tail_pages = head.prefix_pages + PagesFor(lengths[r].prefix);
      head.num_prefix_tokens = lengths[r].prefix;
      head.num_tail_tokens = lengths[r].tail;
      heads.push_back(head);
      first_split.push_back(first_split.back() + NumSplits(NumPages(head)));
    }
    heads_.emplace(heads);
    first_split_.emplace(first_split);
    args_ = {.q = device_q_.data(),
             .heads = heads_->data(),
             .first_split = first_split_->data(),
             .out = out_.data(),
             .dtype = dtype,
             .prefix_format = format,
             .num_sequences = lengths.size() / kv_heads,
             .num_query_heads = kv_heads * group,
             .num_kv_heads = kv_heads,
             .head_dim = head_dim,
             .q_row_stride = kv_heads * group * head_dim,
             .num_splits = first_split.back()};
    MakeWorkspace();
  }

  // As where batches of other lengths share a captured step.
  void AddSplits(size_t count) {
    args_.num_splits += count;
    MakeWorkspace();
  }

  PagedAttentionArgs& args() { return args_; }
  std::vector<uint16_t> Run() {
    EXPECT_EQ(PagedAttention(nullptr, args_), absl::OkStatus());
    return out_.ToHost();
  }
  void ExpectAsDefined() {
    const std::vector<float> got = ValuesOf(dtype_, Run());
    for (size_t i = 0; i < got.size(); ++i) {
      // Weights and the result are each rounded to dtype once; the rest is float32.
      const double roundoff = UnitRoundoff(dtype_) + 1e-4;
      ASSERT_NEAR(got[i], expected_[i], roundoff * (weighed_[i] + std::abs(expected_[i])) + 1e-6)
          << "at " << i;
    }
  }

 private:
  void MakeWorkspace() {
    workspace_.emplace(std::max<size_t>(1, PagedAttentionWorkspaceBytes(args_)));
    args_.workspace = workspace_->data();
  }

  size_t PlaceBytes() const {
    return std::max(PageBytes(format_, head_dim_), PageBytes(FormatOf(dtype_), head_dim_));
  }
  size_t PlaceOf(size_t page) const { return (num_pages_ - 1 - page) * PlaceBytes(); }

  void Fill(size_t request, Lengths lengths, size_t first_page, size_t group) {
    const size_t count = lengths.prefix + lengths.tail;
    Tensor16 keys = RandomTensor(dtype_, count * head_dim_, 10 + static_cast<unsigned>(request));
    Tensor16 values = RandomTensor(dtype_, count * head_dim_, 90 + static_cast<unsigned>(request));
    for (size_t first = 0; first < lengths.prefix; first += kPageTokens) {
      WritePage(format_, first, std::min(kPageTokens, lengths.prefix - first), keys, values,
                PlaceOf(first_page++));
    }
    for (size_t first = lengths.prefix; first < count; first += kPageTokens) {
      WritePage(FormatOf(dtype_), first, std::min(kPageTokens, count - first), keys, values,
                PlaceOf(first_page++));
    }
    for (size_t g = 0; g < group; ++g) Attend(request * group + g, count, keys, values);
  }

  // Tokens from `first` as a page; keys and values become what is read of it, rounded to dtype. Of
  // fp8 nothing is rounded: its one scale is not applied to the single numbers.
  void WritePage(PageFormat format, size_t first, size_t num_tokens, Tensor16& keys,
                 Tensor16& values, size_t place) {
    TensorView k(&keys.values[first * head_dim_], {num_tokens, head_dim_});
    TensorView v(&values.values[first * head_dim_], {num_tokens, head_dim_});
    std::vector<int32_t> positions(num_tokens);
    std::iota(positions.begin(), positions.end(), 0);
    std::byte* page = &memory_[place];
    kvship::GatherPages(format, k, v, positions, page);
    ReadPage(format, page, k, v);
    if (format != PageFormat::kFp8) {
      for (size_t i = 0; i < num_tokens * head_dim_; ++i) {
        k.f32()[i] = ValueOf(dtype_, BitsOf(dtype_, k.f32()[i]));
        v.f32()[i] = ValueOf(dtype_, BitsOf(dtype_, v.f32()[i]));
      }
    }
    // What a slot that does not count may hold.
    const size_t row_bytes = head_dim_ * PageElementBits(format) / 8;
    const size_t rest = kPageTokens - num_tokens;
    std::memset(page + num_tokens * row_bytes, 0xff, rest * row_bytes);
    std::memset(page + PageValuesOffset(format, head_dim_) + num_tokens * row_bytes, 0xff,
                rest * row_bytes);
    if (format != PageFormat::kInt8 && format != PageFormat::kInt4) return;
    std::byte* scales = page + PageScalesOffset(format, head_dim_) + 4 * head_dim_;
    for (size_t group = 0; group < 2 * head_dim_ / kValueGroup; ++group) {
      std::memset(scales + 2 * (group * kPageTokens + num_tokens), 0xff, 2 * rest);
    }
  }

  void Attend(size_t row, size_t count, const Tensor16& keys, const Tensor16& values) {
    std::vector<double> weights(count);
    double sum = 0;
    for (size_t i = 0; i < count; ++i) {
      double dot = 0;
      for (size_t d = 0; d < head_dim_; ++d) {
        dot += double{q_.values[row * head_dim_ + d]} * keys.values[i * head_dim_ + d];
      }
      sum += weights[i] = std::exp(dot / std::sqrt(static_cast<double>(head_dim_)));
    }
    for (size_t i = 0; i < count; ++i) {
      for (size_t d = 0; d < head_dim_; ++d) {
        const double share = weights[i] / sum * values.values[i * head_dim_ + d];
        expected_[row * head_dim_ + d] += share;
        weighed_[row * head_dim_ + d] += std::abs(share);
      }
    }
  }

  DType dtype_;
  PageFormat format_;
  size_t head_dim_;
  size_t num_pages_ = 0;
  Tensor16 q_;
  std::vector<double> expected_, weighed_;
  std::vector<std::byte> memory_;
  DeviceArray<uint16_t> device_q_, out_;
  std::optional<DeviceArray<std::byte>> device_memory_;
  std::optional<DeviceArray<const std::byte*>> table_;
  std::optional<DeviceArray<PagedHead>> heads_;
  std::optional<DeviceArray<uint32_t>> first_split_;
  std::optional<DeviceArray<std::byte>> workspace_;
  PagedAttentionArgs args_;
};

using PagedAttentionTest = DeviceTest;

TEST_F(PagedAttentionTest, OfShortSequencesIsExact) {
  PagedCase(DType::kBf16, 4, 2, 128, {{40, 1}, {1, 0}}).ExpectAsDefined();
  PagedCase(DType::kF16, 3, 1, 64, {{0, 5}, {17, 33}, {200, 1}}).ExpectAsDefined();
}

TEST_F(PagedAttentionTest, OfSeveralSplitsIsExact) {
  PagedCase(DType::kBf16, 4, 1, 128, {{700, 20}, {256, 0}}).ExpectAsDefined();
  PagedCase(DType::kF16, 1, 1, 64, {{256, 1}}).ExpectAsDefined();
  PagedCase(DType::kF16, 16, 1, 128, {{300, 45}}).ExpectAsDefined();
  PagedCase(DType::kBf16, 9, 1, 64, {{100, 300}}).ExpectAsDefined();
}

TEST_F(PagedAttentionTest, OfAnEmptyHeadIsZero) {
  PagedCase(DType::kBf16, 2, 1, 64, {{0, 0}, {300, 1}}).ExpectAsDefined();
}

TEST_F(PagedAttentionTest, DoesNotDependOnTheCompany) {
  PagedCase alone(DType::kBf16, 4, 1, 128, {{300, 7}});
  PagedCase together(DType::kBf16, 4, 1, 128, {{300, 7}, {900, 60}});
  together.args().workspace = nullptr;
  EXPECT_EQ(PagedAttention(nullptr, together.args()).code(), absl::StatusCode::kInvalidArgument);
  PagedCase company(DType::kBf16, 4, 1, 128, {{300, 7}, {900, 60}});
  const std::vector<uint16_t> a = alone.Run(), b = company.Run();
  EXPECT_EQ(a, std::vector<uint16_t>(b.begin(), b.begin() + static_cast<int64_t>(a.size())));
}

// Alone eight groups of threads merge its splits; in company enough to fill any device one does.
TEST_F(PagedAttentionTest, ManySplitsAreMergedToTheSameBitsByOneGroupAndByEight) {
  const Lengths lengths = {2500, 7};
  PagedCase alone(DType::kF16, 3, 1, 64, {lengths});
  std::vector<Lengths> company(250, Lengths{0, 0});
  company.front() = lengths;
  PagedCase together(DType::kF16, 3, 1, 64, company);
  alone.ExpectAsDefined();
  together.ExpectAsDefined();
  const std::vector<uint16_t> a = alone.Run(), b = together.Run();
  EXPECT_EQ(a, std::vector<uint16_t>(b.begin(), b.begin() + static_cast<int64_t>(a.size())));
}

TEST_F(PagedAttentionTest, OfManySplitsIsExact) {
  PagedCase(DType::kBf16, 1, 1, 128, {{65 * kSplitPages * kPageTokens + 3, 9}}).ExpectAsDefined();
}

// Blocks look for their heads 32 at a time, and each again.
TEST_F(PagedAttentionTest, EveryBlockFindsItsHead) {
  for (size_t num_heads : {31, 32, 33, 64, 1030}) {
    std::vector<Lengths> lengths(num_heads, Lengths{1, 1});
    lengths[0] = lengths[num_heads / 2] = lengths[num_heads - 2] = {520, 3};
    PagedCase attention(DType::kF16, 1, 1, 64, lengths);
    attention.ExpectAsDefined();
    const std::vector<uint16_t> exactly = attention.Run();
    attention.AddSplits(40);
    EXPECT_EQ(attention.Run(), exactly);
  }
}

TEST_F(PagedAttentionTest, ALongSequenceGivesShortOnesNoMemory) {
  const std::vector<Lengths> lengths = {{20, 1}, {700, 7}, {9, 1}};
  const PagedAttentionArgs args = PagedCase(DType::kBf16, 4, 1, 128, lengths).args();
  EXPECT_EQ(args.num_splits, 1 + 3 + 1);
  EXPECT_EQ(PagedAttentionWorkspaceBytes(args), 5 * 4 * (128 + 2) * sizeof(float));
}

TEST_F(PagedAttentionTest, RejectsFewerSplitsThanHeads) {
  PagedCase c(DType::kBf16, 1, 1, 64, {{5, 1}, {5, 1}});
  c.args().num_splits = 1;
  EXPECT_EQ(PagedAttention(nullptr, c.args()).message(), "num_splits 1: wanted 2 to 2^31 - 1");
}

TEST_F(PagedAttentionTest, OfAPrefixInTheOtherFloatsIsExact) {
  PagedCase(PageFormat::kF16, DType::kBf16, 4, 2, 128, {{40, 1}, {1, 0}}).ExpectAsDefined();
  PagedCase(PageFormat::kF16, DType::kBf16, 9, 1, 64, {{100, 300}}).ExpectAsDefined();
  PagedCase(PageFormat::kBf16, DType::kF16, 3, 1, 64, {{0, 5}, {17, 33}, {200, 1}})
      .ExpectAsDefined();
  PagedCase(PageFormat::kBf16, DType::kF16, 16, 1, 128, {{300, 45}}).ExpectAsDefined();
}

TEST_F(PagedAttentionTest, RejectsAPrefixInF32) {
  PagedCase c(DType::kBf16, 1, 1, 64, {{5, 1}});
  c.args().prefix_format = PageFormat::kF32;
  EXPECT_EQ(PagedAttention(nullptr, c.args()).message(),
            "prefix_format f32: wanted f16, bf16, fp8, int8 or int4");
}

class QuantizedPagedAttentionTest : public DeviceTest,
                                    public ::testing::WithParamInterface<PageFormat> {};
INSTANTIATE_TEST_SUITE_P(All, QuantizedPagedAttentionTest,
                         ::testing::Values(PageFormat::kFp8, PageFormat::kInt8, PageFormat::kInt4),
                         [](const auto& info) { return PageFormatName(info.param); });

TEST_P(QuantizedPagedAttentionTest, OfShortSequencesIsExact) {
  PagedCase(GetParam(), DType::kBf16, 4, 2, 128, {{40, 1}, {1, 0}}).ExpectAsDefined();
  PagedCase(GetParam(), DType::kBf16, 4, 1, 64, {{33, 0}, {64, 31}}).ExpectAsDefined();
  PagedCase(GetParam(), DType::kF16, 8, 1, 128, {{7, 40}, {32, 0}}).ExpectAsDefined();
  PagedCase(GetParam(), DType::kF16, 3, 1, 64, {{0, 5}, {17, 33}, {200, 1}}).ExpectAsDefined();
}

TEST_P(QuantizedPagedAttentionTest, OfSeveralSplitsIsExact) {
  PagedCase(GetParam(), DType::kBf16, 4, 1, 128, {{700, 20}, {256, 0}}).ExpectAsDefined();
  PagedCase(GetParam(), DType::kBf16, 9, 1, 64, {{100, 300}}).ExpectAsDefined();
  PagedCase(GetParam(), DType::kBf16, 16, 1, 128, {{290, 17}}).ExpectAsDefined();
  PagedCase(GetParam(), DType::kF16, 1, 1, 64, {{256, 1}}).ExpectAsDefined();
  PagedCase(GetParam(), DType::kF16, 16, 1, 128, {{300, 45}}).ExpectAsDefined();
  PagedCase(GetParam(), DType::kF16, 12, 1, 64, {{300, 0}}).ExpectAsDefined();
}

TEST_P(QuantizedPagedAttentionTest, OfAnEmptyHeadIsZero) {
  PagedCase(GetParam(), DType::kBf16, 2, 1, 64, {{0, 0}, {300, 1}}).ExpectAsDefined();
}

TEST_P(QuantizedPagedAttentionTest, DoesNotDependOnTheCompany) {
  PagedCase alone(GetParam(), DType::kBf16, 4, 1, 128, {{300, 7}});
  PagedCase company(GetParam(), DType::kBf16, 4, 1, 128, {{300, 7}, {900, 60}});
  company.AddSplits(5);
  const std::vector<uint16_t> a = alone.Run(), b = company.Run();
  EXPECT_EQ(a, std::vector<uint16_t>(b.begin(), b.begin() + static_cast<int64_t>(a.size())));
}

}  // namespace
}  // namespace kvship::cuda
