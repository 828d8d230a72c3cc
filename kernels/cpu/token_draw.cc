#include "kernels/token_draw.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/random.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/token_draw.cc"
// foreach_target.h has to come first.
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The largest of the logits; NaN counts as -infinity.
float Largest(std::span<const float> logits) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  auto largest = hn::Set(d, -INFINITY);
  size_t i = 0;
  for (; i + lanes <= logits.size(); i += lanes) {
    const auto logit = hn::LoadU(d, logits.data() + i);
    largest = hn::IfThenElse(hn::Gt(logit, largest), logit, largest);
  }
  float all = hn::GetLane(hn::MaxOfLanes(d, largest));
  for (; i < logits.size(); ++i) all = logits[i] > all ? logits[i] : all;
  return all;
}

// Where the first logit with this value is, which one of them has.
size_t FirstOf(float value, std::span<const float> logits) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= logits.size(); i += lanes) {
    const auto found =
        hn::FindFirstTrue(d, hn::Eq(hn::LoadU(d, logits.data() + i), hn::Set(d, value)));
    if (found >= 0) return i + static_cast<size_t>(found);
  }
  while (logits[i] != value) ++i;
  return i;
}

// The sum of exp(logit - highest), within a millionth.
double SumExp(std::span<const float> logits, float highest) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  // So far below, the exponential is 0; hn::Exp wants finite numbers.
  const auto lowest = hn::Set(d, -200.0f);
  const auto exp = [&](auto logit) {
    const auto below = hn::Sub(logit, hn::Set(d, highest));
    return hn::Exp(d, hn::IfThenElse(hn::Gt(below, lowest), below, lowest));  // lowest for NaN
  };
  // As many terms to a float's sum as leave it exact enough.
  constexpr size_t kTerms = 32;
  double sum = 0;
  size_t i = 0;
  while (i + lanes <= logits.size()) {
    auto part = hn::Zero(d);
    for (size_t k = 0; k < kTerms && i + lanes <= logits.size(); ++k, i += lanes) {
      part = hn::Add(part, exp(hn::LoadU(d, logits.data() + i)));
    }
    sum += hn::GetLane(hn::SumOfLanes(d, part));
  }
  for (; i < logits.size(); ++i) {
    if (!std::isnan(logits[i])) sum += std::exp(logits[i] - highest);
  }
  return sum;
}

// TokenDistance of each of the logits.
void Distances(std::span<const float> logits, float highest, const TokenDraw& draw,
               uint32_t* HWY_RESTRICT distances) {
  const hn::ScalableTag<float> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::RebindToSigned<decltype(d)> di;
  const size_t lanes = hn::Lanes(d);
  // Processors convert to signed integers only.
  const auto half = hn::Set(d, 0x1p31f);
  size_t i = 0;
  for (; i + lanes <= logits.size(); i += lanes) {
    const auto logit = hn::LoadU(d, logits.data() + i);
    const auto distance = hn::Mul(hn::Sub(hn::Set(d, highest), logit), hn::Set(d, draw.scale));
    const auto is_upper = hn::Ge(distance, half);
    const auto lower = hn::ConvertTo(di, hn::Sub(distance, hn::IfThenElseZero(is_upper, half)));
    const auto upper = hn::IfThenElseZero(hn::RebindMask(du, is_upper), hn::Set(du, 1u << 31));
    const auto whole = hn::Xor(hn::BitCast(du, lower), upper);
    const auto is_near =
        hn::Eq(hn::Min(whole, hn::Set(du, draw.farthest)), whole);  // Le knows no unsigned
    const auto has_chance =
        hn::And(hn::RebindMask(du, hn::Lt(distance, hn::Set(d, 0x1p32f))), is_near);
    hn::StoreU(hn::IfThenElse(has_chance, whole, hn::Set(du, kNoChance)), du, distances + i);
  }
  for (; i < logits.size(); ++i) {
    distances[i] = TokenDistance(logits[i], highest, draw.scale, draw.farthest);
  }
}

// TokenWeight of each of the distances, of which there are whole vectors.
void Weights(std::span<const uint32_t> distances, uint64_t* HWY_RESTRICT weights) {
#if HWY_TARGET == HWY_SCALAR  // has no even lanes
  for (size_t i = 0; i < distances.size(); ++i) weights[i] = TokenWeight(distances[i]);
#else
  const hn::ScalableTag<uint64_t> d;
  const hn::Repartition<int32_t, decltype(d)> di;
  const hn::Rebind<uint32_t, decltype(d)> narrow;
  assert(distances.size() % hn::Lanes(d) == 0);
  for (size_t i = 0; i < distances.size(); i += hn::Lanes(d)) {
    const auto distance = hn::PromoteTo(d, hn::LoadU(narrow, distances.data() + i));
    // Numbers of 32 bits in the even lanes; what is in the others is never looked at.
    const auto x = hn::Sub(hn::BitCast(di, hn::ShiftLeft<32 - kHalvingBits>(distance)),
                           hn::Set(di, INT32_MIN));
    auto sum = hn::Set(di, WeightTerm(kLastWeightTerm));
    for (int k = kLastWeightTerm - 1; k >= 0; --k) {
      const auto product = hn::BitCast(d, hn::MulEven(sum, x));
      sum = hn::Sub(hn::Set(di, WeightTerm(k)), hn::BitCast(di, hn::ShiftRight<32>(product)));
    }
    const auto mantissa = hn::And(hn::BitCast(d, sum), hn::Set(d, 0xffffffffu));
    const auto weight =
        hn::Shr(hn::ShiftLeft<13>(mantissa), hn::ShiftRight<kHalvingBits>(distance));
    const auto has_chance = hn::Ne(distance, hn::Set(d, uint64_t{kNoChance}));
    hn::StoreU(hn::IfThenElseZero(has_chance, weight), d, weights + i);
  }
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {
HWY_EXPORT(Largest);
HWY_EXPORT(FirstOf);
HWY_EXPORT(SumExp);
HWY_EXPORT(Distances);
HWY_EXPORT(Weights);
namespace {

// Weights are computed and added up a block at a time.
constexpr size_t kBlock = 256;

// Tokens by id, and beyond the last such as have no chance, to a whole block.
struct Chances {
  std::vector<uint32_t> distances;
  std::vector<uint64_t> weights;  // 0 of those that have none, or none any more
};

// The calling thread's, valid until its next call: fresh pages would cost more than the rest.
Chances& ChancesOf(std::span<const float> logits, float highest, const TokenDraw& draw) {
  thread_local Chances chances;
  const size_t size = (logits.size() + kBlock - 1) / kBlock * kBlock;
  chances.distances.resize(size);
  chances.weights.resize(size);
  std::fill(chances.distances.begin() + static_cast<ptrdiff_t>(logits.size()),
            chances.distances.end(), kNoChance);
  HWY_DYNAMIC_DISPATCH(Distances)(logits, highest, draw, chances.distances.data());
  HWY_DYNAMIC_DISPATCH(Weights)(chances.distances, chances.weights.data());
  return chances;
}

// Orders tokens by their distances, then by their ids.
uint64_t KeyOf(uint32_t distance, size_t token) { return uint64_t{distance} << 32 | token; }

// Leaves the likeliest tokens that have `needed` of something together, of which each that has a
// chance has measure(token); all, where they have less.
template <class Measure>
void LeaveTheLikeliest(uint64_t needed, const Measure& measure, Chances& chances) {
  // By the upper bits of their distances: the last that is left is in the bucket where their sum
  // reaches what is needed, and only that one's tokens have to be sorted.
  constexpr int kShift = 20;
  std::vector<uint64_t> sums(size_t{1} << (32 - kShift));
  const auto& [distances, weights] = chances;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0) sums[distances[i] >> kShift] += measure(i);
  }
  uint64_t sum = 0;
  size_t bucket = 0;
  for (; bucket < sums.size() && sum + sums[bucket] < needed; ++bucket) sum += sums[bucket];
  std::vector<uint64_t> keys;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0 && distances[i] >> kShift == bucket) keys.push_back(KeyOf(distances[i], i));
  }
  std::sort(keys.begin(), keys.end());
  uint64_t last = ~uint64_t{0};
  for (auto key = keys.begin(); key != keys.end() && sum < needed; ++key) {
    sum += measure(*key & 0xffffffffu);
    last = *key;
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    if (KeyOf(distances[i], i) > last) chances.weights[i] = 0;
  }
}

uint64_t SumOf(std::span<const uint64_t> weights) {
  return std::accumulate(weights.begin(), weights.end(), uint64_t{0});
}

// The token on which `random`, in units of 2^-64 of all weights, falls; weights in whole blocks.
int32_t TokenAt(uint64_t random, std::span<const uint64_t> weights) {
  uint64_t left = PartOf(random, SumOf(weights));
  size_t token = 0;
  for (uint64_t sum; left >= (sum = SumOf(weights.subspan(token, kBlock))); token += kBlock) {
    left -= sum;
  }
  for (; left >= weights[token]; ++token) left -= weights[token];
  return static_cast<int32_t>(token);
}

}  // namespace

int32_t LikeliestToken(std::span<const float> logits) {
  const float highest = HWY_DYNAMIC_DISPATCH(Largest)(logits);
  if (highest == -INFINITY) return kNoToken;
  return static_cast<int32_t>(HWY_DYNAMIC_DISPATCH(FirstOf)(highest, logits));
}

double LogSumExp(std::span<const float> logits) {
  const float highest = HWY_DYNAMIC_DISPATCH(Largest)(logits);
  if (!std::isfinite(highest)) return highest;
  return highest + std::log(HWY_DYNAMIC_DISPATCH(SumExp)(logits, highest));
}

int32_t DrawToken(std::span<const float> logits, const TokenDraw& draw) {
  assert(!logits.empty() && logits.size() <= kMostDrawnFrom);
  const int32_t likeliest = LikeliestToken(logits);
  if (likeliest == kNoToken || draw.scale == 0) return likeliest;
  const float highest = logits[likeliest];
  if (!std::isfinite(highest)) return likeliest;
  Chances& chances = ChancesOf(logits, highest, draw);
  const std::vector<uint64_t>& weights = chances.weights;
  if (draw.top_k > 0) {
    LeaveTheLikeliest(
        draw.top_k, [](size_t) { return 1; }, chances);
  }
  if (draw.top_p > 0) {
    const uint64_t needed = NeededWeight(draw.top_p, SumOf(weights));
    LeaveTheLikeliest(
        needed, [&weights](size_t token) { return weights[token]; }, chances);
  }
  return TokenAt(RandomBits(draw.seed, draw.index), weights);
}

}  // namespace kvship
#endif  // HWY_ONCE
