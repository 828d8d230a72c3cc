// One block of CUDA threads, run on the CPU: each thread is a fiber, and fibers change only where
// the threads of a warp or of the block meet. What is kept between such points is each thread's
// own, so a kernel that forgets a barrier reads what has not been written yet. One kernel at a
// time, one OS thread.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

namespace kvship::emulation {

inline constexpr size_t kWarpThreads = 32;

class Block {
 public:
  // The block whose threads are running.
  static Block& Current();

  // Runs `body` once per thread, to the end. Shared memory is filled with a pattern that is NaN.
  void Run(size_t num_threads, size_t shared_bytes, const std::function<void()>& body);

  size_t thread() const { return thread_; }
  size_t lane() const { return thread_ % kWarpThreads; }
  std::byte* shared() { return shared_.get(); }
  size_t shared_bytes() const { return shared_bytes_; }

  // Waits for every thread of the block that has not ended.
  void Meet();
  // Waits for every thread of the warp. The last one to come calls `exchange` with what the lanes
  // brought, by lane; all go on after that.
  using Exchange = std::function<void(void* const* brought)>;
  void MeetWarp(void* bring, const Exchange& exchange);

 private:
  enum class Waiting : uint8_t { kNo, kForWarp, kForBlock };
  struct Thread {
    std::unique_ptr<std::byte[]> stack;
    void* stack_pointer = nullptr;
    Waiting waiting = Waiting::kNo;
    bool ended = false;
  };

  static void Enter();
  void Prepare(Thread& thread);
  void Resume(size_t thread);
  void Pause(Waiting waiting);
  bool RunThreads();
  bool ReleaseWarps();
  bool ReleaseBlock();

  std::function<void()> body_;
  std::vector<Thread> threads_;
  std::vector<void*> brought_;      // by thread
  std::vector<Exchange> exchange_;  // by warp
  std::unique_ptr<std::byte[]> shared_;
  size_t shared_bytes_ = 0;
  size_t thread_ = 0;
  void* scheduler_ = nullptr;  // its stack pointer while a thread runs
};

}  // namespace kvship::emulation
