#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/prompt_attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

// Keys are read in tiles of this many, at multiples of it: its scores for a block of rows (24 KiB
// with AVX-512) stay in the first-level cache between the two products.
constexpr size_t kTileKeys = 128;

// A block of queries of one KV head, one per lane, the G heads of a token side by side: lane r is
// row first_row + r of the M * G rows of that head.
struct RowBlock {
  size_t kv_head;
  size_t first_row;
  size_t num_rows;
};

// Memory of one thread, in floats: query [D, lanes], out [D, lanes], scores [kTileKeys, lanes],
// and per lane the running maximum, sum, correction and position.
size_t BlockScratchFloats(size_t head_dim) { return (2 * head_dim + kTileKeys + 4) * BlockLanes(); }

struct BlockState {
  BlockState(float* memory, size_t head_dim) {
    const size_t lanes = BlockLanes();
    query = memory;
    out = query + head_dim * lanes;
    scores = out + head_dim * lanes;
    max = scores + kTileKeys * lanes;
    sum = max + lanes;
    correction = sum + lanes;
    position = correction + lanes;
  }
  float* query;
  float* out;
  float* scores;
  float* max;
  float* sum;
  float* correction;
  float* position;  // of the last key that the lane's query sees
};

void LoadBlock(const PromptAttentionArgs& args, const RowBlock& block, BlockState& state) {
  const size_t lanes = BlockLanes();
  const size_t head_dim = args.q.dims[2];
  const size_t group = args.q.dims[1] / args.keys.dims[0];
  // Scores come out in units of log 2, for Exp2.
  const float scale = static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(head_dim)));
  for (size_t lane = 0; lane < lanes; ++lane) {
    // Lanes past the end repeat the last row, and are not read.
    const size_t row = block.first_row + std::min(lane, block.num_rows - 1);
    const float* q = args.q.f32(row / group, block.kv_head * group + row % group);
    for (size_t i = 0; i < head_dim; ++i) state.query[i * lanes + lane] = q[i] * scale;
    state.position[lane] = static_cast<float>(row / group);
    state.max[lane] = -HUGE_VALF;
    state.sum[lane] = 0.0f;
  }
  std::fill_n(state.out, head_dim * lanes, 0.0f);
}

// Hides keys after the lane's own position. `first_key` is relative to args.first_position, so that
// the numbers stay exact in floats.
void MaskTile(float first_key, size_t num_keys, BlockState& state) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  const FloatVec hidden = hn::Set(d, -HUGE_VALF);
  for (size_t v = 0; v < kBlockVectors; ++v) {
    const FloatVec last_visible = hn::Load(d, state.position + v * lanes);
    float* scores = state.scores + v * lanes;
    for (size_t j = 0; j < num_keys; ++j, scores += kBlockVectors * lanes) {
      const FloatVec key = hn::Set(d, first_key + static_cast<float>(j));
      hn::Store(hn::IfThenElse(hn::Le(key, last_visible), hn::Load(d, scores), hidden), d, scores);
    }
  }
}

// Turns the tile's scores into 2^(score - maximum) and brings maximum and sum up to date.
void SoftmaxTile(size_t num_keys, BlockState& state) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  const size_t block_lanes = kBlockVectors * lanes;
  for (size_t v = 0; v < kBlockVectors; ++v) {
    float* const scores = state.scores + v * lanes;
    const FloatVec old_max = hn::Load(d, state.max + v * lanes);
    FloatVec max = old_max;
    for (size_t j = 0; j < num_keys; ++j) max = hn::Max(max, hn::Load(d, scores + j * block_lanes));
    FloatVec tile_sum = hn::Zero(d);
    for (size_t j = 0; j < num_keys; ++j) {
      const FloatVec p = Exp2(hn::Sub(hn::Load(d, scores + j * block_lanes), max));
      tile_sum = hn::Add(tile_sum, p);
      hn::Store(p, d, scores + j * block_lanes);
    }
    const FloatVec correction = Exp2(hn::Sub(old_max, max));
    const FloatVec sum = hn::MulAdd(hn::Load(d, state.sum + v * lanes), correction, tile_sum);
    hn::Store(max, d, state.max + v * lanes);
    hn::Store(sum, d, state.sum + v * lanes);
    hn::Store(correction, d, state.correction + v * lanes);
  }
}

// out[i][lane] = out * correction + sum over j of values[j][i] * scores[j][lane], kRows columns i.
template <size_t kRows>
HWY_INLINE void AccumulateValues(const float* HWY_RESTRICT values, size_t value_stride,
                                 size_t num_keys, const float* HWY_RESTRICT scores,
                                 const float* HWY_RESTRICT correction, float* HWY_RESTRICT out) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  const size_t block_lanes = kBlockVectors * lanes;
  FloatVec sum[kRows][kBlockVectors];
#pragma GCC unroll 8
  for (size_t i = 0; i < kRows; ++i) {
    sum[i][0] = sum[i][1] = sum[i][2] = hn::Zero(d);
  }
  for (size_t j = 0; j < num_keys; ++j, scores += block_lanes, values += value_stride) {
    const FloatVec p0 = hn::Load(d, scores);
    const FloatVec p1 = hn::Load(d, scores + lanes);
    const FloatVec p2 = hn::Load(d, scores + 2 * lanes);
#pragma GCC unroll 8
    for (size_t i = 0; i < kRows; ++i) {
      const FloatVec value = hn::Set(d, values[i]);
      sum[i][0] = hn::MulAdd(value, p0, sum[i][0]);
      sum[i][1] = hn::MulAdd(value, p1, sum[i][1]);
      sum[i][2] = hn::MulAdd(value, p2, sum[i][2]);
    }
  }
#pragma GCC unroll 8
  for (size_t i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (size_t v = 0; v < kBlockVectors; ++v) {
      float* const to = out + i * block_lanes + v * lanes;
      const FloatVec scaled = hn::Load(d, correction + v * lanes);
      hn::Store(hn::MulAdd(hn::Load(d, to), scaled, sum[i][v]), d, to);
    }
  }
}

void AccumulateTile(const float* values, size_t value_stride, size_t num_keys, size_t head_dim,
                    BlockState& state) {
  const size_t block_lanes = BlockLanes();
  size_t i = 0;
  for (; i + kBlockRows <= head_dim; i += kBlockRows) {
    AccumulateValues<kBlockRows>(values + i, value_stride, num_keys, state.scores, state.correction,
                                 state.out + i * block_lanes);
  }
  for (; i < head_dim; ++i) {
    AccumulateValues<1>(values + i, value_stride, num_keys, state.scores, state.correction,
                        state.out + i * block_lanes);
  }
}

void StoreBlock(const PromptAttentionArgs& args, const RowBlock& block, const BlockState& state) {
  const size_t lanes = BlockLanes();
  const size_t head_dim = args.q.dims[2];
  const size_t group = args.q.dims[1] / args.keys.dims[0];
  for (size_t lane = 0; lane < block.num_rows; ++lane) {
    const size_t row = block.first_row + lane;
    const size_t head = block.kv_head * group + row % group;
    float* out = args.out.f32(row / group) + head * head_dim;
    const float inverse = 1.0f / state.sum[lane];
    for (size_t i = 0; i < head_dim; ++i) out[i] = state.out[i * lanes + lane] * inverse;
    if (args.lse.data != nullptr) {
      const double log2_sum = state.max[lane] + std::log2(static_cast<double>(state.sum[lane]));
      args.lse.f32(head)[row / group] = static_cast<float>(log2_sum * M_LN2);
    }
  }
}

void AttendBlock(const PromptAttentionArgs& args, const RowBlock& block, float* memory) {
  const size_t head_dim = args.q.dims[2];
  const size_t group = args.q.dims[1] / args.keys.dims[0];
  const size_t first_query = block.first_row / group;
  const size_t last_query = (block.first_row + block.num_rows - 1) / group;
  const size_t num_keys = args.first_position + last_query + 1;
  BlockState state(memory, head_dim);
  LoadBlock(args, block, state);
  for (size_t begin = 0; begin < num_keys; begin += kTileKeys) {
    const size_t count = std::min(kTileKeys, num_keys - begin);
    MultiplyAllRows(args.keys.f32(block.kv_head, begin), args.keys.strides[1], count, state.query,
                    head_dim, state.scores);
    if (begin + count > args.first_position + first_query + 1) {
      MaskTile(static_cast<float>(static_cast<ptrdiff_t>(begin) -
                                  static_cast<ptrdiff_t>(args.first_position)),
               count, state);
    }
    SoftmaxTile(count, state);
    AccumulateTile(args.values.f32(block.kv_head, begin), args.values.strides[1], count, head_dim,
                   state);
  }
  StoreBlock(args, block, state);
}

void AttendPrompt(Backend& backend, const PromptAttentionArgs& args) {
  const size_t num_heads = args.keys.dims[0];
  const size_t num_rows = args.q.dims[0] * (args.q.dims[1] / num_heads);
  const size_t block_rows = BlockLanes();
  const size_t blocks_per_head = (num_rows + block_rows - 1) / block_rows;
  const size_t floats_per_thread = BlockScratchFloats(args.q.dims[2]);
  float* const scratch = reinterpret_cast<float*>(
      backend.Scratch(backend.threads().num_threads() * floats_per_thread * sizeof(float)));
  backend.threads().ParallelForWithThread(
      num_heads * blocks_per_head, [&](size_t task, size_t thread) {
        // The last rows see the most keys: they go first, so that the threads end together.
        const size_t index = blocks_per_head - 1 - task / num_heads;
        const size_t first_row = index * block_rows;
        AttendBlock(args,
                    {.kv_head = task % num_heads,
                     .first_row = first_row,
                     .num_rows = std::min(block_rows, num_rows - first_row)},
                    scratch + thread * floats_per_thread);
      });
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
