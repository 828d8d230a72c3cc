#include "bench/kernels/machine_limits.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <string>

#include "base/buffer.h"
#include "kernels/backend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/kernels/machine_limits.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvship {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// More than the two units times the four or five cycles that a multiply-add takes, and with the two
// factors no more than AVX2's 16 registers.
constexpr size_t kChains = 12;

// The sum of `count` numbers, a multiple of 1024.
uint64_t SumOf(const uint64_t* numbers, size_t count) {
  const hn::ScalableTag<uint64_t> d;
  auto a = hn::Zero(d), b = a, c = a, e = a;
  for (size_t i = 0, step = hn::Lanes(d); i < count; i += 4 * step) {
    a = hn::Add(a, hn::LoadU(d, numbers + i));
    b = hn::Add(b, hn::LoadU(d, numbers + i + step));
    c = hn::Add(c, hn::LoadU(d, numbers + i + 2 * step));
    e = hn::Add(e, hn::LoadU(d, numbers + i + 3 * step));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(a, b), hn::Add(c, e))));
}

// Does `rounds` multiply-adds on each of the chains; returns how many floating-point operations
// they were.
double MultiplyAdd(size_t rounds, float* result) {
  const hn::ScalableTag<float> d;
  const auto factor = hn::Set(d, 0.999f), term = hn::Set(d, *result);
  decltype(hn::Zero(d)) sums[kChains];
  for (size_t i = 0; i < kChains; ++i) sums[i] = hn::Set(d, static_cast<float>(i));
  for (size_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (size_t i = 0; i < kChains; ++i) sums[i] = hn::MulAdd(sums[i], factor, term);
  }
  for (size_t i = 1; i < kChains; ++i) sums[0] = hn::Add(sums[0], sums[i]);
  *result = hn::GetLane(hn::SumOfLanes(d, sums[0]));
  return 2.0 * static_cast<double>(rounds * kChains * hn::Lanes(d));
}

}  // namespace HWY_NAMESPACE
}  // namespace kvship
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvship {
namespace {

HWY_EXPORT(SumOf);
HWY_EXPORT(MultiplyAdd);

// The shortest of some runs: what disturbs only adds time.
double FastestSeconds(const std::function<void()>& run) {
  double fastest = 1e9;
  for (int i = 0; i < 7; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
    fastest = std::min(fastest, time.count());
  }
  return fastest;
}

double ReadBytesPerSecond(Backend& backend) {
  const size_t cache_bytes = static_cast<size_t>(std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE)));
  const size_t part_bytes = size_t{1} << 20;
  const size_t num_parts = std::max(size_t{256}, 4 * cache_bytes / part_bytes);
  Buffer memory(num_parts * part_bytes);
  std::fill_n(memory.data(), memory.num_bytes(), std::byte{1});
  const size_t part_numbers = part_bytes / sizeof(uint64_t);
  const double seconds = FastestSeconds([&] {
    backend.threads().ParallelFor(num_parts, [&](size_t part) {
      const auto* const numbers = memory.as<uint64_t>() + part * part_numbers;
      benchmark::DoNotOptimize(HWY_DYNAMIC_DISPATCH(SumOf)(numbers, part_numbers));
    });
  });
  return static_cast<double>(memory.num_bytes()) / seconds;
}

double FlopPerSecond(Backend& backend) {
  constexpr size_t kRounds = 1 << 20, kTasksPerThread = 8;
  const size_t num_tasks = kTasksPerThread * backend.threads().num_threads();
  float result = 1.0f;
  const double operations = HWY_DYNAMIC_DISPATCH(MultiplyAdd)(kRounds, &result);
  const double seconds = FastestSeconds([&] {
    backend.threads().ParallelFor(num_tasks, [&](size_t) {
      float own = 1.0f;
      HWY_DYNAMIC_DISPATCH(MultiplyAdd)(kRounds, &own);
      benchmark::DoNotOptimize(own);
    });
  });
  return operations * static_cast<double>(num_tasks) / seconds;
}

}  // namespace

const MachineLimits& LimitsOf(size_t num_threads) {
  static auto* const known = new std::map<size_t, MachineLimits>;
  const auto [at, is_new] = known->try_emplace(num_threads);
  if (is_new) {
    Backend backend(num_threads);
    at->second = {.bytes_per_s = ReadBytesPerSecond(backend), .flop_per_s = FlopPerSecond(backend)};
  }
  return at->second;
}

void ShowLimits(std::initializer_list<size_t> numbers_of_threads) {
  for (const size_t num_threads : numbers_of_threads) {
    const MachineLimits& limits = LimitsOf(num_threads);
    char text[128];
    std::snprintf(text, sizeof text, "memory %.1f GB/s, float32 %.0f GFLOP/s",
                  limits.bytes_per_s / 1e9, limits.flop_per_s / 1e9);
    benchmark::AddCustomContext("limits with threads:" + std::to_string(num_threads), text);
  }
  benchmark::AddCustomContext("shares",
                              "of these limits; data in a cache passes 100 % of memory, and "
                              "integers of 8 and 16 bits 100 % of float32");
}

void Report(benchmark::State& state, const Work& work, size_t num_threads, double seconds) {
  const MachineLimits& limits = LimitsOf(num_threads);
  const double runs_per_s = static_cast<double>(state.iterations()) / seconds;
  const double memory_share = work.bytes * runs_per_s / limits.bytes_per_s;
  const double flop_share = work.operations * runs_per_s / limits.flop_per_s;
  state.counters["MB"] = work.bytes / 1e6;
  state.counters["GB/s"] = work.bytes * runs_per_s / 1e9;
  if (work.operations > 0) state.counters["GFLOP/s"] = work.operations * runs_per_s / 1e9;
  if (flop_share > memory_share) {
    state.counters["% of float32"] = 100 * flop_share;
  } else {
    state.counters["% of memory"] = 100 * memory_share;
  }
}

}  // namespace kvship
#endif  // HWY_ONCE
