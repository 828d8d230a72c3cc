// The products of prompt attention on pairs of 16-bit numbers, which the processor adds up twice as
// fast as float32: q.k with AVX2 and with AVX-512 that has VNNI, both products where it has BF16
// too. Highway 1.0.3 has neither, hence intrinsics.
//
// q.k is an integer product: each row is scaled to a norm of 46000, so that by Cauchy-Schwarz no
// sum passes 2^31 (46008^2, for rounding adds up to sqrt(D) / 2 to a norm), and its error is about
// 1e-5 |q| |k| sqrt(2) / 8, where bfloat16 would have 100 times that: scores enter exponentials.
// BF16 instructions take probabilities and values rounded to bfloat16; the sum that divides them is
// not. Without them they stay in float32: integers would need a scale that other tokens share, and
// then a row's result would depend on how the prompt was cut.

#if defined(KVSHIP_KERNELS_CPU_PROMPT_PAIRS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSHIP_KERNELS_CPU_PROMPT_PAIRS_INL_H_
#undef KVSHIP_KERNELS_CPU_PROMPT_PAIRS_INL_H_
#else
#define KVSHIP_KERNELS_CPU_PROMPT_PAIRS_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "kernels/cpu/prompt_floats-inl.h"

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
#include <immintrin.h>

#if HWY_TARGET == HWY_AVX3
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace kvship {
namespace HWY_NAMESPACE {

using IntTag = hn::RebindToSigned<FloatTag>;
using IntVec = hn::Vec<IntTag>;

// The type that GCC's own functions have for 32-bit lanes: sums kept as __m512i or __m256i, whose
// lanes it takes for 64-bit ones, go through memory at each step.
typedef int32_t Ints __attribute__((vector_size(sizeof(IntVec))));

HWY_INLINE Ints AddPairProducts(Ints sum, IntVec a, IntVec b) {
#if HWY_TARGET == HWY_AVX3
  return (Ints)_mm512_dpwssd_epi32((__m512i)sum, a.raw, b.raw);
#else
  return sum + (Ints)_mm256_madd_epi16(a.raw, b.raw);
#endif
}

inline bool CanAddPairProducts() {
#if HWY_TARGET == HWY_AVX3
  return __builtin_cpu_supports("avx512vnni");
#else
  return true;
#endif
}

// Scales a row to integers of 16 bits; returns what turns them back. head_dim is a multiple of 16.
inline float QuantizeRow(const float* row, size_t head_dim, int16_t* out) {
  const FloatTag d;
  const hn::Rebind<int16_t, FloatTag> d16;
  FloatVec squares = hn::Zero(d), largest = hn::Zero(d);
  for (size_t i = 0; i < head_dim; i += hn::Lanes(d)) {
    const FloatVec x = hn::LoadU(d, row + i);
    squares = hn::MulAdd(x, x, squares);
    largest = hn::Max(largest, hn::Abs(x));
  }
  const float norm = std::sqrt(hn::GetLane(hn::SumOfLanes(d, squares)));
  // The row's largest element must also fit in 16 bits.
  const float limit = std::max(norm * (1.0f / 46000.0f),
                               hn::GetLane(hn::MaxOfLanes(d, largest)) * (1.0f / 32767.0f));
  const FloatVec scale = hn::Set(d, limit > 0.0f ? 1.0f / limit : 0.0f);
  for (size_t i = 0; i < head_dim; i += hn::Lanes(d)) {
    const IntVec x = hn::NearestInt(hn::Mul(hn::LoadU(d, row + i), scale));
    hn::StoreU(hn::DemoteTo(d16, x), d16, out + i);
  }
  return limit;
}

inline size_t PaddedKeys(const PromptShape& shape) { return (shape.num_keys + 15) / 16 * 16; }

// A prompt's keys as integers, in memory that the tiles were given.
class KeyPairs {
 public:
  static constexpr size_t kMaxHeadDim = 512;

  static bool TakesHeadDim(size_t head_dim) {
    return head_dim % 16 == 0 && head_dim <= kMaxHeadDim;
  }

  static size_t NumBytes(const PromptShape& shape) {
    return shape.kv_heads * PaddedKeys(shape) * (shape.head_dim * sizeof(int16_t) + sizeof(float));
  }

  KeyPairs(const PromptShape& shape, std::byte* memory)
      : padded_keys_(PaddedKeys(shape)),
        head_dim_(shape.head_dim),
        pairs_(reinterpret_cast<int32_t*>(memory)),
        scales_(reinterpret_cast<float*>(pairs_ + shape.kv_heads * padded_keys_ * head_dim_ / 2)),
        query_scale_(static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(head_dim_)))) {}

  // Rounds the keys [begin, end) of a head.
  void Pack(const PromptAttentionArgs& args, size_t kv_head, size_t begin, size_t end) {
    for (size_t j = begin; j < end; ++j) {
      scales_[kv_head * padded_keys_ + j] = QuantizeRow(
          args.keys.f32(kv_head, j), head_dim_, reinterpret_cast<int16_t*>(Pairs(kv_head, j)));
    }
  }

  // The block's query holds D / 2 rows of pairs, then a row of scales.
  void LoadQuery(const float* query, float* block, size_t lane) const {
    alignas(64) int16_t elements[kMaxHeadDim];
    const float scale = QuantizeRow(query, head_dim_, elements) * query_scale_;
    int32_t* const pairs = reinterpret_cast<int32_t*>(block);
    for (size_t i = 0; i < head_dim_ / 2; ++i) {
      std::memcpy(pairs + i * BlockLanes() + lane, elements + 2 * i, 4);
    }
    block[head_dim_ / 2 * BlockLanes() + lane] = scale;
  }

  void Score(size_t kv_head, size_t begin, size_t num_keys, const BlockState& state,
             float* scores) const {
    const float* const scales = scales_ + kv_head * padded_keys_ + begin;
    size_t j = 0;
    for (; j + kBlockRows <= num_keys; j += kBlockRows) {
      ScoreKeys<kBlockRows>(Pairs(kv_head, begin + j), scales + j, state.query,
                            scores + j * BlockLanes());
    }
    for (; j < num_keys; ++j) {
      ScoreKeys<1>(Pairs(kv_head, begin + j), scales + j, state.query, scores + j * BlockLanes());
    }
  }

 protected:
  const size_t padded_keys_;
  const size_t head_dim_;

 private:
  int32_t* Pairs(size_t kv_head, size_t key) const {
    return pairs_ + (kv_head * padded_keys_ + key) * head_dim_ / 2;
  }

  template <size_t kKeys>
  HWY_INLINE void ScoreKeys(const int32_t* HWY_RESTRICT keys, const float* HWY_RESTRICT key_scales,
                            const float* HWY_RESTRICT query, float* HWY_RESTRICT out) const {
    const FloatTag d;
    const IntTag di;
    const size_t lanes = hn::Lanes(d), num_pairs = head_dim_ / 2;
    Ints sum[kKeys][kBlockVectors];
#pragma GCC unroll 8
    for (size_t j = 0; j < kKeys; ++j) {
      sum[j][0] = sum[j][1] = sum[j][2] = Ints{};
    }
    for (size_t i = 0; i < num_pairs; ++i, query += BlockLanes()) {
      const int32_t* const pairs = reinterpret_cast<const int32_t*>(query);
      const IntVec q0 = hn::Load(di, pairs);
      const IntVec q1 = hn::Load(di, pairs + lanes);
      const IntVec q2 = hn::Load(di, pairs + 2 * lanes);
#pragma GCC unroll 8
      for (size_t j = 0; j < kKeys; ++j) {
        const IntVec key = hn::Set(di, keys[j * num_pairs + i]);
        sum[j][0] = AddPairProducts(sum[j][0], q0, key);
        sum[j][1] = AddPairProducts(sum[j][1], q1, key);
        sum[j][2] = AddPairProducts(sum[j][2], q2, key);
      }
    }
#pragma GCC unroll 3
    for (size_t v = 0; v < kBlockVectors; ++v) {
      const FloatVec query_scale = hn::Load(d, query + v * lanes);
#pragma GCC unroll 8
      for (size_t j = 0; j < kKeys; ++j) {
        const IntVec dot{(decltype(IntVec::raw))sum[j][v]};
        const FloatVec scale = hn::Mul(query_scale, hn::Set(d, key_scales[j]));
        hn::Store(hn::Mul(hn::ConvertTo(d, dot), scale), d, out + j * BlockLanes() + v * lanes);
      }
    }
  }

  int32_t* pairs_;  // [H, padded_keys_, D / 2]
  float* scales_;   // [H, padded_keys_]
  float query_scale_;
};

// Keys in 16 bits, in the backend's scratch memory; values where they lie.
class KeyTiles : public KeyPairs, public FloatTiles {
 public:
  static bool Suits(const PromptAttentionArgs& args) {
    return TakesHeadDim(args.q.dims[2]) && CanAddPairProducts();
  }

  KeyTiles(const PromptAttentionArgs& args, std::byte* memory)
      : KeyPairs(PromptShape(args), memory), FloatTiles(args) {}

  using KeyPairs::LoadQuery;
  using KeyPairs::Score;
};

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_TARGET == HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

// A part of PairTiles that is inlined into code for all of AVX-512, so without BF16 instructions.
struct PairProbabilities {
  // Pair j / 2 takes the place of row j / 2 of the scores, which has been read.
  static HWY_INLINE void StoreProbabilities(FloatVec p0, FloatVec p1, size_t key, float* column) {
    const hn::RebindToUnsigned<FloatTag> d;
    const auto half = hn::Set(d, 0x8000);
    const auto low = hn::ShiftRight<16>(hn::Add(hn::BitCast(d, p0), half));
    const auto high = hn::Add(hn::BitCast(d, p1), half);
    const auto pair = hn::Or(low, hn::And(high, hn::Set(d, 0xffff0000)));
    hn::Store(pair, d, reinterpret_cast<uint32_t*>(column + key / 2 * BlockLanes()));
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni,avx512bf16")
namespace kvship {
namespace HWY_NAMESPACE {

// Two rows of 16 floats as bfloat16, element i of both side by side.
HWY_INLINE __m512i InterleaveBf16(__m512 row0, __m512 row1) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(row1, row0);
  return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), halves);
}

// Keys and values of a prompt in 16 bits, in the backend's scratch memory.
class PairTiles : public KeyPairs, public PairProbabilities {
 public:
  static bool Suits(const PromptAttentionArgs& args) {
    return TakesHeadDim(args.q.dims[2]) && CanAddPairProducts() &&
           __builtin_cpu_supports("avx512bf16");
  }

  static size_t NumBytes(const PromptShape& shape) {
    return KeyPairs::NumBytes(shape) +
           shape.kv_heads * PaddedKeys(shape) * shape.head_dim * sizeof(uint16_t);
  }

  PairTiles(const PromptAttentionArgs& args, std::byte* memory)
      : KeyPairs(PromptShape(args), memory),
        value_pairs_(reinterpret_cast<int32_t*>(memory + KeyPairs::NumBytes(PromptShape(args)))) {}

  // Rounds the keys and values [begin, end) of a head; begin is even.
  void Pack(const PromptAttentionArgs& args, size_t kv_head, size_t begin, size_t end) {
    KeyPairs::Pack(args, kv_head, begin, end);
    for (size_t j = begin; j < end; j += 2) {
      const float* const row0 = args.values.f32(kv_head, j);
      const float* const row1 = j + 1 < end ? args.values.f32(kv_head, j + 1) : nullptr;
      for (size_t i = 0; i < head_dim_; i += 16) {
        const __m512 x1 = row1 == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(row1 + i);
        _mm512_storeu_si512(ValuePairs(kv_head, j) + i,
                            InterleaveBf16(_mm512_loadu_ps(row0 + i), x1));
      }
    }
  }

  void AddValues(size_t kv_head, size_t begin, size_t num_keys, const BlockState& state,
                 const float* scores) const {
    const int32_t* const values = ValuePairs(kv_head, begin);
    for (size_t i = 0; i < head_dim_; i += 8) {
      AddColumns(values + i, (num_keys + 1) / 2, scores, state.factor, state.out + i * kLanes);
    }
  }

 private:
  static constexpr size_t kLanes = 16 * kBlockVectors;

  int32_t* ValuePairs(size_t kv_head, size_t even_key) const {
    return value_pairs_ + (kv_head * padded_keys_ + even_key) * head_dim_ / 2;
  }

  // Eight columns of the output.
  HWY_INLINE void AddColumns(const int32_t* HWY_RESTRICT values, size_t num_pairs,
                             const float* HWY_RESTRICT p, const float* HWY_RESTRICT factor,
                             float* HWY_RESTRICT out) const {
    __m512 sum[8][kBlockVectors];
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; ++i) sum[i][0] = sum[i][1] = sum[i][2] = _mm512_setzero_ps();
    for (size_t j = 0; j < num_pairs; ++j, p += kLanes, values += head_dim_) {
      const __m512bh p0 = (__m512bh)_mm512_load_si512(p);
      const __m512bh p1 = (__m512bh)_mm512_load_si512(p + 16);
      const __m512bh p2 = (__m512bh)_mm512_load_si512(p + 32);
#pragma GCC unroll 8
      for (size_t i = 0; i < 8; ++i) {
        const __m512bh value = (__m512bh)_mm512_set1_epi32(values[i]);
        sum[i][0] = _mm512_dpbf16_ps(sum[i][0], p0, value);
        sum[i][1] = _mm512_dpbf16_ps(sum[i][1], p1, value);
        sum[i][2] = _mm512_dpbf16_ps(sum[i][2], p2, value);
      }
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; ++i) {
      const FloatVec sums[kBlockVectors] = {FloatVec{sum[i][0]}, FloatVec{sum[i][1]},
                                            FloatVec{sum[i][2]}};
      AddScaled(sums, factor, out + i * kLanes);
    }
  }

  int32_t* value_pairs_;  // [H, padded_keys_ / 2, D]
};

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

template <class Tiles>
void AttendPacked(Backend& backend, const PromptAttentionArgs& args) {
  const PromptShape shape(args);
  const size_t tile_bytes = (Tiles::NumBytes(shape) + 63) / 64 * 64;
  const size_t thread_bytes = ThreadFloats(shape.head_dim) * sizeof(float);
  std::byte* const memory =
      backend.Scratch(tile_bytes + backend.threads().num_threads() * thread_bytes);
  Tiles tiles(args, memory);
  const size_t tiles_per_head = (shape.num_keys + kTileKeys - 1) / kTileKeys;
  backend.threads().ParallelFor(shape.kv_heads * tiles_per_head, [&](size_t task) {
    const size_t begin = task % tiles_per_head * kTileKeys;
    tiles.Pack(args, task / tiles_per_head, begin, std::min(begin + kTileKeys, shape.num_keys));
  });
  AttendWith(tiles, backend, args, reinterpret_cast<float*>(memory + tile_bytes));
}

// Whether it has attended: other shapes and processors want float32.
inline bool AttendWithPairs(Backend& backend, const PromptAttentionArgs& args) {
#if HWY_TARGET == HWY_AVX3
  if (PairTiles::Suits(args)) {
    AttendPacked<PairTiles>(backend, args);
    return true;
  }
#endif
  if (!KeyTiles::Suits(args)) return false;
  AttendPacked<KeyTiles>(backend, args);
  return true;
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#else

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

inline bool AttendWithPairs(Backend&, const PromptAttentionArgs&) { return false; }

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#endif  // AVX2 or AVX-512

#endif  // KVSHIP_KERNELS_CPU_PROMPT_PAIRS_INL_H_
