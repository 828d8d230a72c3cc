// What the benches of CPU kernels measure themselves by: how fast this machine reads memory and how
// many float32 multiply-adds it does, both measured here with as many threads as a bench has. One
// thread.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstddef>
#include <initializer_list>

namespace kvship {

struct MachineLimits {
  double bytes_per_s = 0;  // read from memory
  double flop_per_s = 0;   // float32, a multiply-add counted as two
};

// Of `num_threads` together; measured when first asked for, which takes about a second.
const MachineLimits& LimitsOf(size_t num_threads);

// Has the output begin with the limits of each number of threads, and with what shares of them
// mean.
void ShowLimits(std::initializer_list<size_t> numbers_of_threads);

// What one run of an operation has to do at least.
struct Work {
  double bytes = 0;       // read and written
  double operations = 0;  // multiplications and additions; 0: few beside the bytes
};

// The counters of a bench whose iterations took `seconds` together with `num_threads`: rates, and
// the share of the limit that binds, which is the one that alone would take longer.
void Report(benchmark::State& state, const Work& work, size_t num_threads, double seconds);

// Times `body` as the bench whose first argument is its number of threads.
template <class Body>
void TimeWork(benchmark::State& state, const Work& work, const Body& body) {
  const auto begin = std::chrono::steady_clock::now();
  for (auto _ : state) body();
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
  Report(state, work, static_cast<size_t>(state.range(0)), time.count());
}

}  // namespace kvship
