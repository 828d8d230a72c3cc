// Stream and Event own a CUDA stream, a queue of work on one GPU, and a CUDA event, a mark in it
// that the host waits for. Movable; one thread at a time may enqueue work.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "kernels/cuda/launch.h"

namespace kvship::cuda {

class Stream {
 public:
  // On the current device, in order with the default stream.
  static absl::StatusOr<Stream> Create() { return CreateWith(cudaStreamDefault); }
  // On the current device, not in order with the default stream.
  static absl::StatusOr<Stream> CreateBesideDefault() { return CreateWith(cudaStreamNonBlocking); }

  Stream() = default;
  Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~Stream() {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  cudaStream_t get() const { return stream_; }
  absl::Status Wait(const char* what) const {
    return CudaStatus(cudaStreamSynchronize(stream_), what);
  }

 private:
  static absl::StatusOr<Stream> CreateWith(unsigned flags) {
    Stream stream;
    RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithFlags(&stream.stream_, flags), "stream"));
    return stream;
  }

  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  static absl::StatusOr<Event> Create() {
    Event event;
    constexpr unsigned kFlags = cudaEventDisableTiming | cudaEventBlockingSync;
    RETURN_IF_ERROR(CudaStatus(cudaEventCreateWithFlags(&event.event_, kFlags), "event"));
    return event;
  }

  Event() = default;
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }

  // Marks what has been enqueued so far.
  absl::Status Record(cudaStream_t stream) {
    return CudaStatus(cudaEventRecord(event_, stream), "event");
  }
  // Waits for what the last Record marked. Errors: those of that work.
  absl::Status Wait(const char* what) const {
    return CudaStatus(cudaEventSynchronize(event_), what);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace kvship::cuda
