// What the benches of CUDA kernels share: memory filled with random numbers, and the timing of one
// operation by repeated runs of a captured graph. One thread; prints a line per result as it comes,
// and writes the file of all results anew, for the next one may end the process.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/float16.h"
#include "bench/kernels/cuda/read_memory.h"
#include "kernels/cuda/buffer.h"

namespace kvship::cuda {

// A bench has no one to report an error to: it prints it and ends.
inline void OrDie(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

class DeviceBytes : public DeviceBuffer {
 public:
  explicit DeviceBytes(size_t num_bytes) : DeviceBuffer(Make(num_bytes)) {}
  explicit DeviceBytes(std::span<const std::byte> host) : DeviceBytes(host.size()) {
    OrDie(cudaMemcpy(data(), host.data(), host.size(), cudaMemcpyHostToDevice), "copy");
  }

 private:
  static DeviceBuffer Make(size_t num_bytes) {
    auto buffer = DeviceBuffer::Create(num_bytes);
    if (buffer.ok()) return *std::move(buffer);
    std::fprintf(stderr, "%s\n", buffer.status().ToString().c_str());
    std::exit(1);
  }
};

// A million normal numbers, drawn once.
inline const std::vector<double>& NormalNumbers() {
  static const std::vector<double>* const numbers = [] {
    auto* out = new std::vector<double>(1 << 20);
    std::mt19937 random(1);
    std::normal_distribution<double> normal;
    for (double& x : *out) x = normal(random);
    return out;
  }();
  return *numbers;
}

// The block of numbers over and over, each time beginning elsewhere, so that no two rows are alike.
template <class T>
void FillWith(const DeviceBytes& memory, const std::vector<T>& block) {
  const size_t count = memory.num_bytes() / sizeof(T);
  for (size_t at = 0, round = 0; at < count; ++round) {
    const size_t skip = round * 7919 % (block.size() / 2);
    const size_t part = std::min(block.size() - skip, count - at);
    OrDie(cudaMemcpy(memory.as<T>() + at, block.data() + skip, part * sizeof(T),
                     cudaMemcpyHostToDevice),
          "fill");
    at += part;
  }
}
inline void FillNormalBf16(const DeviceBytes& memory) {
  std::vector<uint16_t> block;
  for (double x : NormalNumbers()) block.push_back(ToBf16(static_cast<float>(x)).bits);
  FillWith(memory, block);
}
inline void FillFloats(const DeviceBytes& memory, const std::function<double(double)>& of_normal) {
  std::vector<float> block;
  for (double x : NormalNumbers()) block.push_back(static_cast<float>(of_normal(x)));
  FillWith(memory, block);
}

// A result's shape in words.
inline std::string Label(const char* format, size_t a, size_t b = 0, size_t c = 0) {
  char text[96];
  std::snprintf(text, sizeof text, format, a, b, c);
  return text;
}

class Bench {
 public:
  // Runs one operation on one of several sets of inputs.
  using Operation = std::function<absl::Status(size_t set, cudaStream_t stream)>;

  explicit Bench(const char* path) : path_(path) {}

  // Finds the device and measures how fast it reads memory. False, with a line on stderr, without
  // one.
  bool Ready() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) {
      std::fprintf(stderr, "no CUDA device: %s\n", cudaGetErrorString(error));
      return false;
    }
    cudaDeviceProp properties;
    OrDie(cudaGetDeviceProperties(&properties, 0), "device");
    OrDie(cudaDriverGetVersion(&driver_), "driver");
    OrDie(cudaRuntimeGetVersion(&runtime_), "runtime");
    device_ = properties.name;
    OrDie(cudaStreamCreate(&stream_), "stream");
    OrDie(cudaEventCreate(&begin_), "event");
    OrDie(cudaEventCreate(&end_), "event");
    const size_t bytes = size_t{4} << 30;
    const DeviceBytes from(bytes), sums(sizeof(uint32_t));
    FillNormalBf16(from);
    Time("read", "4 GiB", static_cast<double>(bytes), 0, 1, [&](size_t, cudaStream_t stream) {
      return ReadMemory(stream, from.data(), bytes, sums.as<uint32_t>());
    });
    peak_bytes_per_s_ = results_.back().bytes / results_.back().seconds;
    Write();
    return true;
  }

  // Prints and keeps the time of one run, the bytes it has to move at least and, unless 0, its
  // floating-point operations.
  void Time(const std::string& name, const std::string& shape, double bytes, double operations,
            size_t num_sets, const Operation& run) {
    const size_t rounds = std::max<size_t>(1, 8 / num_sets);
    cudaGraphExec_t graph = Capture(num_sets, rounds, run);
    std::vector<float> times;
    double total_ms = 0;
    for (size_t i = 0; i < 200 && (times.size() < 9 || total_ms < 200); ++i) {
      OrDie(cudaEventRecord(begin_, stream_), "event");
      OrDie(cudaGraphLaunch(graph, stream_), "graph");
      OrDie(cudaEventRecord(end_, stream_), "event");
      OrDie(cudaEventSynchronize(end_), name.c_str());
      float ms = 0;
      OrDie(cudaEventElapsedTime(&ms, begin_, end_), "event");
      total_ms += ms;
      if (i >= 3) times.push_back(ms);  // the first ones warm up
    }
    OrDie(cudaGraphExecDestroy(graph), "graph");
    std::nth_element(times.begin(), times.begin() + static_cast<int64_t>(times.size() / 2),
                     times.end());
    const double seconds = times[times.size() / 2] * 1e-3 / static_cast<double>(num_sets * rounds);
    results_.push_back({name, shape, seconds, bytes, operations});
    Print(results_.back());
    Write();
  }

 private:
  struct Result {
    std::string name, shape;
    double seconds, bytes, operations;
  };

  void Write() const {
    std::ofstream out(path_);
    out << "{\n  \"device\": \"" << device_ << "\",\n  \"driver_cuda\": " << driver_
        << ",\n  \"runtime_cuda\": " << runtime_
        << ",\n  \"read_bytes_per_s\": " << peak_bytes_per_s_ << ",\n  \"results\": [";
    const char* separator = "\n";
    for (const Result& r : results_) {
      out << separator << "    {\"name\": \"" << r.name << "\", \"shape\": \"" << r.shape
          << "\", \"microseconds\": " << r.seconds * 1e6 << ", \"bytes\": " << r.bytes
          << ", \"bytes_per_s\": " << r.bytes / r.seconds
          << ", \"share_of_read\": " << r.bytes / r.seconds / peak_bytes_per_s_
          << ", \"flop_per_s\": " << r.operations / r.seconds << "}";
      separator = ",\n";
    }
    out << "\n  ]\n}\n";
    if (out.flush().good()) return;
    std::fprintf(stderr, "%s: cannot be written\n", path_);
    std::exit(1);
  }

  cudaGraphExec_t Capture(size_t num_sets, size_t rounds, const Operation& run) {
    OrDie(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
    for (size_t i = 0; i < num_sets * rounds; ++i) {
      if (const absl::Status status = run(i % num_sets, stream_); !status.ok()) {
        std::fprintf(stderr, "%s\n", status.ToString().c_str());
        std::exit(1);
      }
    }
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    OrDie(cudaStreamEndCapture(stream_, &graph), "capture");
    OrDie(cudaGraphInstantiate(&executable, graph, 0), "graph");
    OrDie(cudaGraphDestroy(graph), "graph");
    return executable;
  }

  void Print(const Result& r) const {
    const double rate = r.bytes / r.seconds;
    std::printf("%-32s %-28s %10.2f us %9.1f MB %8.1f GB/s", r.name.c_str(), r.shape.c_str(),
                r.seconds * 1e6, r.bytes / 1e6, rate / 1e9);
    if (peak_bytes_per_s_ > 0) std::printf(" %5.1f %%", 100 * rate / peak_bytes_per_s_);
    if (r.operations > 0) std::printf(" %8.1f TFLOP/s", r.operations / r.seconds / 1e12);
    std::printf("\n");
    std::fflush(stdout);
  }

  const char* path_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  std::string device_;
  int driver_ = 0, runtime_ = 0;
  double peak_bytes_per_s_ = 0;
  std::vector<Result> results_;
};

}  // namespace kvship::cuda
