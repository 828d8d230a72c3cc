#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/scores.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/window_votes.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"
#include "kernels/cpu/key_block-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

// Keys per task: enough work to outweigh handing it out, and fixed, because the partial sums of a
// log-sum-exp are merged in this order. A multiple of every block width (24 and 48 lanes).
constexpr size_t kTaskKeys = 768;

// Number of keys, counted from `first_key`, that query w sees.
size_t VisibleKeys(size_t first_position, size_t w, size_t first_key) {
  const size_t end = first_position + w + 1;
  return end > first_key ? end - first_key : 0;
}

// Hides what lies at or after `num_visible` among the lanes of vector v.
HWY_INLINE FloatVec HideAfter(FloatVec x, size_t v, size_t num_visible, float hidden) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  if (num_visible >= (v + 1) * lanes) return x;
  const FloatVec index = hn::Iota(d, static_cast<float>(v * lanes));
  return hn::IfThenElse(hn::Lt(index, hn::Set(d, static_cast<float>(num_visible))), x,
                        hn::Set(d, hidden));
}

float Scale(size_t head_dim) {
  return static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(head_dim)));
}

// Memory of one thread, in floats: keys [D, lanes], products [W, lanes].
size_t WindowScratchFloats(const TensorView& q) { return (q.dims[2] + q.dims[1]) * BlockLanes(); }

void VoteForKeys(const WindowVotesArgs& args, size_t h, size_t first_key, size_t num_keys,
                 float* memory) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  const size_t block_lanes = BlockLanes();
  const auto [query_heads, window, head_dim, unused] = args.q.dims;
  const size_t group = query_heads / args.keys.dims[0];
  const FloatVec scale = hn::Set(d, Scale(head_dim));
  float* const block = memory;
  float* const products = memory + head_dim * block_lanes;
  HWY_ALIGN float sums[kBlockVectors * HWY_MAX_BYTES / sizeof(float)] = {};
  LoadKeys(args.keys, h, first_key, num_keys, block);
  for (size_t head = h * group; head < (h + 1) * group; ++head) {
    MultiplyAllRows(args.q.f32(head), args.q.strides[1], window, block, head_dim, products);
    float* const out = args.votes.f32(head) + first_key;
    if (args.accumulate) std::copy_n(out, num_keys, sums);
    for (size_t v = 0; v * lanes < num_keys; ++v) {
      FloatVec votes = args.accumulate ? hn::Load(d, sums + v * lanes) : hn::Zero(d);
      for (size_t w = 0; w < window; ++w) {
        const FloatVec lse = hn::Set(d, args.lse.f32(head)[w] * static_cast<float>(M_LOG2E));
        const FloatVec product = hn::Load(d, products + w * block_lanes + v * lanes);
        const FloatVec p = Exp2(hn::MulSub(product, scale, lse));
        votes =
            hn::Add(votes, HideAfter(p, v, VisibleKeys(args.first_position, w, first_key), 0.0f));
      }
      hn::Store(votes, d, sums + v * lanes);
    }
    std::copy_n(sums, num_keys, out);
  }
}

void CountWindowVotes(Backend& backend, const WindowVotesArgs& args) {
  const size_t num_keys = args.votes.dims[1];
  const size_t num_tasks = (num_keys + kTaskKeys - 1) / kTaskKeys;
  const size_t floats_per_thread = WindowScratchFloats(args.q);
  float* const scratch = reinterpret_cast<float*>(
      backend.Scratch(backend.threads().num_threads() * floats_per_thread * sizeof(float)));
  backend.threads().ParallelForWithThread(
      args.keys.dims[0] * num_tasks, [&](size_t task, size_t thread) {
        const size_t begin = task % num_tasks * kTaskKeys;
        const size_t end = std::min(begin + kTaskKeys, num_keys);
        for (size_t first = begin; first < end; first += BlockLanes()) {
          VoteForKeys(args, task / num_tasks, first, std::min(BlockLanes(), end - first),
                      scratch + thread * floats_per_thread);
        }
      });
}

struct RunningSum {
  float max = -HUGE_VALF;  // in units of log 2
  float sum = 0.0f;
};

RunningSum Merge(RunningSum a, RunningSum b) {
  const float max = std::max(a.max, b.max);
  if (max == -HUGE_VALF) return {};
  return {max, a.sum * std::exp2(a.max - max) + b.sum * std::exp2(b.max - max)};
}

// Adds one block of keys to the running sums [G, W] of KV head h.
void SumKeys(const WindowVotesArgs& args, size_t h, size_t first_key, size_t num_keys,
             float* memory, RunningSum* sums) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  const size_t block_lanes = BlockLanes();
  const auto [query_heads, window, head_dim, unused] = args.q.dims;
  const size_t group = query_heads / args.keys.dims[0];
  const FloatVec scale = hn::Set(d, Scale(head_dim));
  float* const block = memory;
  float* const products = memory + head_dim * block_lanes;
  LoadKeys(args.keys, h, first_key, num_keys, block);
  for (size_t g = 0; g < group; ++g) {
    MultiplyAllRows(args.q.f32(h * group + g), args.q.strides[1], window, block, head_dim,
                    products);
    for (size_t w = 0; w < window; ++w) {
      const size_t visible = std::min(num_keys, VisibleKeys(args.first_position, w, first_key));
      if (visible == 0) continue;
      FloatVec scores[kBlockVectors];
      FloatVec max = hn::Set(d, -HUGE_VALF);
#pragma GCC unroll 3
      for (size_t v = 0; v < kBlockVectors; ++v) {
        const FloatVec product = hn::Load(d, products + w * block_lanes + v * lanes);
        scores[v] = HideAfter(hn::Mul(product, scale), v, visible, -HUGE_VALF);
        max = hn::Max(max, scores[v]);
      }
      max = hn::MaxOfLanes(d, max);
      FloatVec sum = hn::Zero(d);
#pragma GCC unroll 3
      for (size_t v = 0; v < kBlockVectors; ++v) {
        sum = hn::Add(sum, Exp2(hn::Sub(scores[v], max)));
      }
      RunningSum& total = sums[g * window + w];
      total = Merge(total, {hn::GetLane(max), hn::GetLane(hn::SumOfLanes(d, sum))});
    }
  }
}

// Writes args.lse; args.votes is not used.
void SumWindow(Backend& backend, const WindowVotesArgs& args, size_t num_keys) {
  const auto [query_heads, window, head_dim, unused] = args.q.dims;
  const size_t kv_heads = args.keys.dims[0];
  const size_t rows_per_head = query_heads / kv_heads * window;
  const size_t num_tasks = (num_keys + kTaskKeys - 1) / kTaskKeys;
  const size_t num_threads = backend.threads().num_threads();
  const size_t floats_per_thread = WindowScratchFloats(args.q);
  float* const scratch = reinterpret_cast<float*>(
      backend.Scratch(num_threads * floats_per_thread * sizeof(float) +
                      kv_heads * num_tasks * rows_per_head * sizeof(RunningSum)));
  RunningSum* const sums = reinterpret_cast<RunningSum*>(scratch + num_threads * floats_per_thread);
  std::fill_n(sums, kv_heads * num_tasks * rows_per_head, RunningSum());
  backend.threads().ParallelForWithThread(kv_heads * num_tasks, [&](size_t task, size_t thread) {
    const size_t begin = task % num_tasks * kTaskKeys;
    const size_t end = std::min(begin + kTaskKeys, num_keys);
    for (size_t first = begin; first < end; first += BlockLanes()) {
      SumKeys(args, task / num_tasks, first, std::min(BlockLanes(), end - first),
              scratch + thread * floats_per_thread, sums + task * rows_per_head);
    }
  });
  for (size_t h = 0; h < kv_heads; ++h) {
    for (size_t row = 0; row < rows_per_head; ++row) {
      RunningSum total;
      for (size_t task = 0; task < num_tasks; ++task) {
        total = Merge(total, sums[(h * num_tasks + task) * rows_per_head + row]);
      }
      const double log2_sum = total.max + std::log2(static_cast<double>(total.sum));
      args.lse.f32(h * rows_per_head / window + row / window)[row % window] =
          static_cast<float>(log2_sum * M_LN2);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {
namespace {

HWY_EXPORT(CountWindowVotes);
HWY_EXPORT(SumWindow);

absl::Status CheckWindow(const TensorView& q, const TensorView& keys, const TensorView& lse,
                         size_t num_keys) {
  if (q.rank != 3 || keys.rank != 3 || lse.rank != 2) {
    return absl::InvalidArgumentError("votes want q [Hq, W, D], keys [H, T, D], lse [Hq, W]");
  }
  if (keys.dims[0] == 0 || q.dims[0] % keys.dims[0] != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(q.dims[0], " query heads are not a multiple of ", keys.dims[0], " KV heads"));
  }
  if (q.dims[1] == 0) return absl::InvalidArgumentError("a window of 0 queries, wanted at least 1");
  if (q.dims[2] != keys.dims[2]) {
    return absl::InvalidArgumentError(absl::StrCat("head size of queries ", q.dims[2],
                                                   ", wanted that of the keys, ", keys.dims[2]));
  }
  if (lse.dims[0] != q.dims[0] || lse.dims[1] != q.dims[1]) {
    return absl::InvalidArgumentError(absl::StrCat("lse [", lse.dims[0], ", ", lse.dims[1],
                                                   "], wanted [", q.dims[0], ", ", q.dims[1], "]"));
  }
  if (num_keys > keys.dims[1]) {
    return absl::InvalidArgumentError(
        absl::StrCat(num_keys, " keys to count, but there are ", keys.dims[1]));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WindowVotes(Backend& backend, const WindowVotesArgs& args) {
  absl::Status shapes = CheckWindow(args.q, args.keys, args.lse, args.votes.dims[1]);
  if (!shapes.ok()) return shapes;
  if (args.votes.rank != 2 || args.votes.dims[0] != args.q.dims[0]) {
    return absl::InvalidArgumentError(
        absl::StrCat("votes have ", args.votes.dims[0], " rows, wanted ", args.q.dims[0]));
  }
  HWY_DYNAMIC_DISPATCH(CountWindowVotes)(backend, args);
  return absl::OkStatus();
}

absl::Status WindowLogSumExp(Backend& backend, TensorView q, TensorView keys, size_t num_keys,
                             size_t first_position, TensorView lse) {
  absl::Status shapes = CheckWindow(q, keys, lse, num_keys);
  if (!shapes.ok()) return shapes;
  const WindowVotesArgs args{
      .q = q, .keys = keys, .lse = lse, .first_position = first_position, .votes = {}};
  HWY_DYNAMIC_DISPATCH(SumWindow)(backend, args, num_keys);
  return absl::OkStatus();
}

}  // namespace kvship
#endif  // HWY_ONCE
