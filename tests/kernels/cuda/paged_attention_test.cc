#include "kernels/cuda/paged_attention.h"

#include <cmath>
#include <optional>

#include "tests/kernels/cuda/device_test.h"

namespace kvship::cuda {
namespace {

struct Lengths {
  uint32_t prefix, tail;
};

// Sequences of random keys and values in pages scattered over one block of memory, whose slots that
// do not count are NaN, and what the definition gives in double precision.
class PagedCase {
 public:
  PagedCase(DType dtype, size_t group, size_t kv_heads, size_t head_dim,
            std::vector<Lengths> lengths)
      : dtype_(dtype),
        q_(RandomTensor(dtype, lengths.size() * group * head_dim, 1)),
        expected_(q_.bits.size()),
        weighed_(q_.bits.size()),
        device_q_(q_.bits),
        out_(q_.bits.size()) {
    const size_t page_elements = 2 * kPageTokens * head_dim;
    size_t num_pages = 0;
    for (const Lengths& l : lengths) num_pages += PagesFor(l.prefix) + PagesFor(l.tail);
    memory_.assign(num_pages * page_elements, 0xffff);
    std::vector<size_t> first_page;
    size_t used = 0;
    for (size_t r = 0; r < lengths.size(); ++r) {
      first_page.push_back(used);
      used += PagesFor(lengths[r].prefix) + PagesFor(lengths[r].tail);
      Fill(r, lengths[r], first_page.back(), num_pages, group, head_dim);
    }
    device_memory_.emplace(memory_);
    std::vector<const std::byte*> table(num_pages);
    for (size_t i = 0; i < num_pages; ++i) {
      table[i] = reinterpret_cast<const std::byte*>(device_memory_->data() +
                                                    (num_pages - 1 - i) * page_elements);
    }
    table_.emplace(table);
    std::vector<PagedHead> heads;
    size_t max_pages = 1;
    for (size_t r = 0; r < lengths.size(); ++r) {
      PagedHead head;
      head.prefix_pages = table_->data() + first_page[r];
      head.tail_pages = head.prefix_pages + PagesFor(lengths[r].prefix);
      head.num_prefix_tokens = lengths[r].prefix;
      head.num_tail_tokens = lengths[r].tail;
      heads.push_back(head);
      max_pages = std::max<size_t>(max_pages, NumPages(head));
    }
    heads_.emplace(heads);
    args_ = {.q = device_q_.data(),
             .heads = heads_->data(),
             .out = out_.data(),
             .dtype = dtype,
             .num_sequences = lengths.size() / kv_heads,
             .num_query_heads = kv_heads * group,
             .num_kv_heads = kv_heads,
             .head_dim = head_dim,
             .q_row_stride = kv_heads * group * head_dim,
             .max_pages = max_pages};
    workspace_.emplace(std::max<size_t>(1, PagedAttentionWorkspaceBytes(args_)));
    args_.workspace = workspace_->data();
  }

  PagedAttentionArgs& args() { return args_; }
  std::vector<uint16_t> Run() {
    EXPECT_TRUE(PagedAttention(nullptr, args_).ok());
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
  void Fill(size_t request, Lengths lengths, size_t first_page, size_t num_pages, size_t group,
            size_t head_dim) {
    const size_t count = lengths.prefix + lengths.tail;
    const Tensor16 keys =
        RandomTensor(dtype_, count * head_dim, 10 + static_cast<unsigned>(request));
    const Tensor16 values =
        RandomTensor(dtype_, count * head_dim, 90 + static_cast<unsigned>(request));
    for (size_t i = 0; i < count; ++i) {
      const bool in_tail = i >= lengths.prefix;
      const size_t slot = in_tail ? i - lengths.prefix : i;
      const size_t page =
          first_page + (in_tail ? PagesFor(lengths.prefix) : 0) + slot / kPageTokens;
      uint16_t* to = &memory_[(num_pages - 1 - page) * 2 * kPageTokens * head_dim] +
                     slot % kPageTokens * head_dim;
      for (size_t d = 0; d < head_dim; ++d) {
        to[d] = keys.bits[i * head_dim + d];
        to[kPageTokens * head_dim + d] = values.bits[i * head_dim + d];
      }
    }
    for (size_t g = 0; g < group; ++g) Attend(request * group + g, count, head_dim, keys, values);
  }
  void Attend(size_t row, size_t count, size_t head_dim, const Tensor16& keys,
              const Tensor16& values) {
    std::vector<double> weights(count);
    double sum = 0;
    for (size_t i = 0; i < count; ++i) {
      double dot = 0;
      for (size_t d = 0; d < head_dim; ++d) {
        dot += double{q_.values[row * head_dim + d]} * keys.values[i * head_dim + d];
      }
      sum += weights[i] = std::exp(dot / std::sqrt(static_cast<double>(head_dim)));
    }
    for (size_t i = 0; i < count; ++i) {
      for (size_t d = 0; d < head_dim; ++d) {
        const double share = weights[i] / sum * values.values[i * head_dim + d];
        expected_[row * head_dim + d] += share;
        weighed_[row * head_dim + d] += std::abs(share);
      }
    }
  }

  DType dtype_;
  Tensor16 q_;
  std::vector<double> expected_, weighed_;
  std::vector<uint16_t> memory_;
  DeviceArray<uint16_t> device_q_, out_;
  std::optional<DeviceArray<uint16_t>> device_memory_;
  std::optional<DeviceArray<const std::byte*>> table_;
  std::optional<DeviceArray<PagedHead>> heads_;
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

}  // namespace
}  // namespace kvship::cuda
