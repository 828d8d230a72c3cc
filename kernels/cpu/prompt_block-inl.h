// Attention of blocks of query rows to tiles of keys, compiled once per SIMD target. `Tiles` does
// the two products in the arithmetic of its choice; softmax, masks and the order of work are here.
//
// Every lane is a row by itself, and a tile that it does not see changes nothing of it: a result
// depends neither on the block a row stands in nor on the thread.

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "hwy/highway.h"
#include "kernels/attention.h"
#include "kernels/cpu/attention-inl.h"

#if defined(KVSHIP_KERNELS_CPU_PROMPT_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_PROMPT_BLOCK_INL_H_
#undef KVSHIP_KERNELS_CPU_PROMPT_BLOCK_INL_H_
#else
#define KVSHIP_KERNELS_CPU_PROMPT_BLOCK_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

// Keys are read in tiles of this many, at multiples of it: its scores for a block of rows (24 KiB
// with AVX-512) stay in the first-level cache between the two products.
inline constexpr size_t kTileKeys = 128;

// Blocks that go through a tile one after the other, while it is in the second-level cache: eight
// have 200 KiB of state.
inline constexpr size_t kMaxBlocksPerTask = 8;

// A block of queries of one KV head, one per lane, the G heads of a token side by side: lane r is
// row first_row + r of the M * G rows of that head.
struct RowBlock {
  size_t kv_head;
  size_t first_row;
  size_t num_rows;
  size_t first_position;  // of the block's first query
  size_t num_keys;        // that its last query sees
  float* memory;
};

inline size_t BlockFloats(size_t head_dim) { return (2 * head_dim + 4) * BlockLanes(); }
inline size_t ScoreFloats() { return kTileKeys * BlockLanes(); }

struct BlockState {
  BlockState(float* memory, size_t head_dim) {
    const size_t lanes = BlockLanes();
    query = memory;
    out = query + head_dim * lanes;
    max = out + head_dim * lanes;
    sum = max + lanes;
    factor = sum + lanes;
    position = factor + lanes;
  }
  float* query;     // [D, lanes], as Tiles::LoadQuery left it
  float* out;       // [D, lanes]
  float* max;       // [lanes] so far, in units of log 2
  float* sum;       // [lanes] so far, of 2^(score - max)
  float* factor;    // [lanes] what the maximum's last change multiplies sum and out by
  float* position;  // [lanes] of the query, relative to args.first_position: exact in floats
};

struct PromptShape {
  explicit PromptShape(const PromptAttentionArgs& args)
      : num_queries(args.q.dims[0]),
        kv_heads(args.keys.dims[0]),
        group(args.q.dims[1] / args.keys.dims[0]),
        head_dim(args.q.dims[2]),
        num_keys(args.first_position + args.q.dims[0]) {}
  size_t num_queries;
  size_t kv_heads;
  size_t group;
  size_t head_dim;
  size_t num_keys;
};

template <class Tiles>
void LoadBlock(const PromptAttentionArgs& args, const Tiles& tiles, const RowBlock& block) {
  const size_t lanes = BlockLanes();
  const PromptShape shape(args);
  const BlockState state(block.memory, shape.head_dim);
  for (size_t lane = 0; lane < lanes; ++lane) {
    // Lanes past the end repeat the last row, and are not read.
    const size_t row = block.first_row + std::min(lane, block.num_rows - 1);
    const size_t query = row / shape.group;
    tiles.LoadQuery(args.q.f32(query, block.kv_head * shape.group + row % shape.group), state.query,
                    lane);
    state.position[lane] = static_cast<float>(query);
    state.max[lane] = -HUGE_VALF;
    state.sum[lane] = 0.0f;
  }
  std::fill_n(state.out, shape.head_dim * lanes, 0.0f);
}

// Hides the keys after each lane's own position. `first_key` is relative to args.first_position.
inline void MaskTile(float first_key, size_t num_keys, const BlockState& state, float* scores) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  const FloatVec hidden = hn::Set(d, -HUGE_VALF);
  for (size_t v = 0; v < kBlockVectors; ++v, scores += lanes) {
    const FloatVec last_visible = hn::Load(d, state.position + v * lanes);
    for (size_t j = 0; j < num_keys; ++j) {
      float* const at = scores + j * BlockLanes();
      const FloatVec key = hn::Set(d, first_key + static_cast<float>(j));
      hn::Store(hn::IfThenElse(hn::Le(key, last_visible), hn::Load(d, at), hidden), d, at);
    }
  }
}

// Turns scores into 2^(score - maximum), brings maximum and sum up to date, and leaves the
// probabilities as the tiles want them.
template <class Tiles>
HWY_INLINE void SoftmaxTile(size_t num_keys, const BlockState& state, float* HWY_RESTRICT scores) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  const size_t block_lanes = kBlockVectors * lanes;
  for (size_t v = 0; v < kBlockVectors; ++v) {
    float* const column = scores + v * lanes;
    const FloatVec old_max = hn::Load(d, state.max + v * lanes);
    FloatVec max = old_max, max2 = old_max;
    size_t j = 0;
    for (; j + 2 <= num_keys; j += 2) {
      max = hn::Max(max, hn::Load(d, column + j * block_lanes));
      max2 = hn::Max(max2, hn::Load(d, column + (j + 1) * block_lanes));
    }
    if (j < num_keys) max = hn::Max(max, hn::Load(d, column + j * block_lanes));
    max = hn::Max(max, max2);
    FloatVec sum = hn::Zero(d);
    for (j = 0; j + 2 <= num_keys; j += 2) {
      const FloatVec p0 = Exp2(hn::Sub(hn::Load(d, column + j * block_lanes), max));
      const FloatVec p1 = Exp2(hn::Sub(hn::Load(d, column + (j + 1) * block_lanes), max));
      sum = hn::Add(hn::Add(sum, p0), p1);
      Tiles::StoreProbabilities(p0, p1, j, column);
    }
    if (j < num_keys) {
      const FloatVec p0 = Exp2(hn::Sub(hn::Load(d, column + j * block_lanes), max));
      sum = hn::Add(sum, p0);
      Tiles::StoreProbabilities(p0, hn::Zero(d), j, column);
    }
    const FloatVec factor = Exp2(hn::Sub(old_max, max));
    sum = hn::MulAdd(hn::Load(d, state.sum + v * lanes), factor, sum);
    hn::Store(max, d, state.max + v * lanes);
    hn::Store(sum, d, state.sum + v * lanes);
    hn::Store(factor, d, state.factor + v * lanes);
  }
}

inline void StoreBlock(const PromptAttentionArgs& args, const RowBlock& block) {
  const size_t lanes = BlockLanes();
  const PromptShape shape(args);
  const BlockState state(block.memory, shape.head_dim);
  for (size_t lane = 0; lane < block.num_rows; ++lane) {
    const size_t query = (block.first_row + lane) / shape.group;
    const size_t head = block.kv_head * shape.group + (block.first_row + lane) % shape.group;
    float* const out = args.out.f32(query) + head * shape.head_dim;
    const float share = 1.0f / state.sum[lane];
    for (size_t i = 0; i < shape.head_dim; ++i) out[i] = state.out[i * lanes + lane] * share;
    if (args.lse.data != nullptr) {
      const double log2_sum = state.max[lane] + std::log2(static_cast<double>(state.sum[lane]));
      args.lse.f32(head)[query] = static_cast<float>(log2_sum * M_LN2);
    }
  }
}

// Blocks [first, first + count) of a KV head, through all the keys they see.
template <class Tiles>
void AttendBlocks(const PromptAttentionArgs& args, const Tiles& tiles, size_t kv_head, size_t first,
                  size_t count, float* memory) {
  const PromptShape shape(args);
  const size_t num_rows = shape.num_queries * shape.group;
  float* const scores = memory;
  RowBlock blocks[kMaxBlocksPerTask];
  for (size_t b = 0; b < count; ++b) {
    RowBlock& block = blocks[b];
    block.kv_head = kv_head;
    block.first_row = (first + b) * BlockLanes();
    block.num_rows = std::min(BlockLanes(), num_rows - block.first_row);
    block.first_position = args.first_position + block.first_row / shape.group;
    block.num_keys = args.first_position + (block.first_row + block.num_rows - 1) / shape.group + 1;
    block.memory = memory + ScoreFloats() + b * BlockFloats(shape.head_dim);
    LoadBlock(args, tiles, block);
  }
  for (size_t begin = 0; begin < blocks[count - 1].num_keys; begin += kTileKeys) {
    for (size_t b = 0; b < count; ++b) {
      const RowBlock& block = blocks[b];
      if (begin >= block.num_keys) continue;
      const size_t num_keys = std::min(kTileKeys, block.num_keys - begin);
      const BlockState state(block.memory, shape.head_dim);
      tiles.Score(kv_head, begin, num_keys, state, scores);
      if (begin + num_keys > block.first_position + 1) {
        MaskTile(static_cast<float>(static_cast<ptrdiff_t>(begin) -
                                    static_cast<ptrdiff_t>(args.first_position)),
                 num_keys, state, scores);
      }
      SoftmaxTile<Tiles>(num_keys, state, scores);
      tiles.AddValues(kv_head, begin, num_keys, state, scores);
    }
  }
  for (size_t b = 0; b < count; ++b) StoreBlock(args, blocks[b]);
}

// Blocks of one head that a task takes: up to kMaxBlocksPerTask, but at least some four tasks for
// each thread.
inline size_t BlocksPerTask(size_t num_blocks, size_t num_threads) {
  return std::clamp<size_t>(num_blocks / (4 * num_threads), 1, kMaxBlocksPerTask);
}

// `memory` is the backend's scratch: ThreadFloats() for each thread.
inline size_t ThreadFloats(size_t head_dim) {
  return ScoreFloats() + kMaxBlocksPerTask * BlockFloats(head_dim);
}

template <class Tiles>
void AttendWith(const Tiles& tiles, Backend& backend, const PromptAttentionArgs& args,
                float* memory) {
  const PromptShape shape(args);
  const size_t num_rows = shape.num_queries * shape.group;
  const size_t blocks_per_head = (num_rows + BlockLanes() - 1) / BlockLanes();
  const size_t blocks_per_task =
      BlocksPerTask(blocks_per_head * shape.kv_heads, backend.threads().num_threads());
  const size_t tasks_per_head = (blocks_per_head + blocks_per_task - 1) / blocks_per_task;
  backend.threads().ParallelForWithThread(
      shape.kv_heads * tasks_per_head, [&](size_t task, size_t thread) {
        // The last rows see the most keys: they go first, so that the threads end together.
        const size_t first = (tasks_per_head - 1 - task / shape.kv_heads) * blocks_per_task;
        AttendBlocks(args, tiles, task % shape.kv_heads, first,
                     std::min(blocks_per_task, blocks_per_head - first),
                     memory + thread * ThreadFloats(shape.head_dim));
      });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // KVSHIP_KERNELS_CPU_PROMPT_BLOCK_INL_H_
