#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/prompt_attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/prompt_block-inl.h"
#include "kernels/cpu/prompt_pairs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

// The products in float32, straight on the keys and values.
class FloatTiles {
 public:
  explicit FloatTiles(const PromptAttentionArgs& args)
      : keys_(args.keys),
        values_(args.values),
        head_dim_(args.q.dims[2]),
        // Scores come out in units of log 2, for Exp2.
        scale_(static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(head_dim_)))) {}

  void LoadQuery(const float* query, float* block, size_t lane) const {
    for (size_t i = 0; i < head_dim_; ++i) block[i * BlockLanes() + lane] = query[i] * scale_;
  }

  void Score(size_t kv_head, size_t begin, size_t num_keys, const BlockState& state,
             float* scores) const {
    MultiplyAllRows(keys_.f32(kv_head, begin), keys_.strides[1], num_keys, state.query, head_dim_,
                    scores);
  }

  static HWY_INLINE void StoreProbabilities(FloatVec p0, FloatVec p1, size_t key, float* column) {
    hn::Store(p0, FloatTag(), column + key * BlockLanes());
    hn::Store(p1, FloatTag(), column + (key + 1) * BlockLanes());
  }

  void AddValues(size_t kv_head, size_t begin, size_t num_keys, const BlockState& state,
                 const float* scores) const {
    const float* const values = values_.f32(kv_head, begin);
    size_t i = 0;
    for (; i + kBlockRows <= head_dim_; i += kBlockRows) {
      AddColumns<kBlockRows>(values + i, num_keys, scores, state.factor,
                             state.out + i * BlockLanes());
    }
    for (; i < head_dim_; ++i) {
      AddColumns<1>(values + i, num_keys, scores, state.factor, state.out + i * BlockLanes());
    }
  }

 private:
  // out[i][lane] = out * factor + sum over j of values[j][i] * p[j][lane], kColumns of i.
  template <size_t kColumns>
  HWY_INLINE void AddColumns(const float* HWY_RESTRICT values, size_t num_keys,
                             const float* HWY_RESTRICT p, const float* HWY_RESTRICT factor,
                             float* HWY_RESTRICT out) const {
    const FloatTag d;
    const size_t lanes = hn::Lanes(d);
    const size_t stride = values_.strides[1];
    FloatVec sum[kColumns][kBlockVectors];
#pragma GCC unroll 8
    for (size_t i = 0; i < kColumns; ++i) {
      sum[i][0] = sum[i][1] = sum[i][2] = hn::Zero(d);
    }
    for (size_t j = 0; j < num_keys; ++j, p += kBlockVectors * lanes, values += stride) {
      const FloatVec p0 = hn::Load(d, p);
      const FloatVec p1 = hn::Load(d, p + lanes);
      const FloatVec p2 = hn::Load(d, p + 2 * lanes);
#pragma GCC unroll 8
      for (size_t i = 0; i < kColumns; ++i) {
        const FloatVec value = hn::Set(d, values[i]);
        sum[i][0] = hn::MulAdd(value, p0, sum[i][0]);
        sum[i][1] = hn::MulAdd(value, p1, sum[i][1]);
        sum[i][2] = hn::MulAdd(value, p2, sum[i][2]);
      }
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < kColumns; ++i) AddScaled(sum[i], factor, out + i * BlockLanes());
  }

  TensorView keys_;
  TensorView values_;
  size_t head_dim_;
  float scale_;
};

void AttendPrompt(Backend& backend, const PromptAttentionArgs& args) {
#if KVSHIP_PROMPT_PAIRS
  if (args.arithmetic == Arithmetic::kFast && PairTiles::Suits(args)) {
    AttendWithPairs(backend, args);
    return;
  }
#endif
  const size_t thread_bytes = ThreadFloats(args.q.dims[2]) * sizeof(float);
  std::byte* const scratch = backend.Scratch(backend.threads().num_threads() * thread_bytes);
  AttendWith(FloatTiles(args), backend, args, reinterpret_cast<float*>(scratch));
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {
namespace {

HWY_EXPORT(AttendPrompt);

absl::Status CheckShapes(const PromptAttentionArgs& args) {
  if (args.q.rank != 3 || args.keys.rank != 3 || args.values.rank != 3 || args.out.rank != 2) {
    return absl::InvalidArgumentError("attention wants q [M, Hq, D], keys and values [H, T, D]");
  }
  const auto [m, query_heads, head_dim, unused] = args.q.dims;
  const size_t kv_heads = args.keys.dims[0];
  if (kv_heads == 0 || query_heads % kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(query_heads, " query heads are not a multiple of ", kv_heads, " KV heads"));
  }
  for (const TensorView* cache : {&args.keys, &args.values}) {
    if (cache->dims[0] != kv_heads || cache->dims[2] != head_dim ||
        cache->dims[1] < args.first_position + m) {
      return absl::InvalidArgumentError(absl::StrCat(
          "keys or values [", cache->dims[0], ", ", cache->dims[1], ", ", cache->dims[2],
          "], wanted [", kv_heads, ", at least ", args.first_position + m, ", ", head_dim, "]"));
    }
  }
  if (args.out.dims[0] != m || args.out.dims[1] != query_heads * head_dim) {
    return absl::InvalidArgumentError(absl::StrCat("out [", args.out.dims[0], ", ",
                                                   args.out.dims[1], "], wanted [", m, ", ",
                                                   query_heads * head_dim, "]"));
  }
  if (args.lse.data != nullptr && (args.lse.dims[0] != query_heads || args.lse.dims[1] != m)) {
    return absl::InvalidArgumentError(absl::StrCat("lse [", args.lse.dims[0], ", ",
                                                   args.lse.dims[1], "], wanted [", query_heads,
                                                   ", ", m, "]"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status PromptAttention(Backend& backend, const PromptAttentionArgs& args) {
  if (absl::Status shapes = CheckShapes(args); !shapes.ok()) return shapes;
  if (args.q.dims[0] != 0) HWY_DYNAMIC_DISPATCH(AttendPrompt)(backend, args);
  return absl::OkStatus();
}

}  // namespace kvship
#endif  // HWY_ONCE
