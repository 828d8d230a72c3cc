// The time between two points of a stream, for the benches of the GPU engine.
#pragma once

#include <cuda_runtime.h>

#include "bench/kernels/cuda/device_timing.h"

namespace kvship::cuda {

class Stopwatch {
 public:
  explicit Stopwatch(cudaStream_t stream) : stream_(stream) {
    OrDie(cudaEventCreate(&begin_), "event");
    OrDie(cudaEventCreate(&end_), "event");
  }
  ~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  void Start() { OrDie(cudaEventRecord(begin_, stream_), "event"); }
  void Stop() { OrDie(cudaEventRecord(end_, stream_), "event"); }
  // Waits for the stop.
  double Seconds() {
    OrDie(cudaEventSynchronize(end_), "run");
    float ms = 0;
    OrDie(cudaEventElapsedTime(&ms, begin_, end_), "event");
    return ms * 1e-3;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace kvship::cuda
