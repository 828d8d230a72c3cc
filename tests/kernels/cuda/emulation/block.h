// One block of CUDA threads, run on the CPU: each thread is a fiber, and fibers change only where
// the threads of a warp or of the block meet, or wait for what others do. What is kept between such
// points is each thread's own, so a kernel that forgets a barrier reads what has not been written
// yet. One kernel at a time, one OS thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace kvship::emulation {

inline constexpr size_t kWarpThreads = 32;

// Ends the program with `what` unless the condition holds.
void Require(bool condition, const char* what);

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

  // The block's shared memory lies at multiples of what it is declared to be aligned to, and of no
  // more than that.
  static constexpr uint32_t kSharedBegin = 1024 + 128;
  uint32_t SharedAddress(const void* shared) const;
  // What lies at such an address; ends the program if the bytes from there are not all the block's.
  std::byte* AtSharedAddress(uint32_t address, size_t num_bytes);

  // A chunk of 16 bytes that the running thread or its copy wrote is not visible to the tensor
  // cores and to copies of boxes before that thread publishes it.
  void Wrote(const void* shared);
  void Publish();
  bool IsPublished(const void* shared) const;

  // Waits for every thread of the block that has not ended.
  void Meet();
  // Waits for every thread of the warp. The last one to come calls `exchange` with what the lanes
  // brought, by lane; all go on after that.
  using Exchange = std::function<void(void* const* brought)>;
  void MeetWarp(void* bring, const Exchange& exchange);
  // Waits for what other threads do, or what is done later.
  void WaitUntil(const std::function<bool()>& condition);
  // Lets the others go on first.
  void Yield() { Pause(Waiting::kNo); }

  // Does `work` when no thread can go on without, the newest of it first: nothing may rely on more.
  void Later(std::function<void()> work) { later_.push_back(std::move(work)); }

 private:
  enum class Waiting : uint8_t { kNo, kForWarp, kForBlock, kForCondition };
  struct Thread {
    std::unique_ptr<std::byte[]> stack;
    void* stack_pointer = nullptr;
    Waiting waiting = Waiting::kNo;
    std::function<bool()> condition;
    std::vector<size_t> unpublished;  // chunks
    bool ended = false;
  };

  static void Enter();
  void Prepare(Thread& thread);
  void Resume(size_t thread);
  void Pause(Waiting waiting);
  bool RunThreads();
  bool ReleaseWarps();
  bool ReleaseBlock();
  bool ReleaseConditions();
  bool WorkOnce();

  std::function<void()> body_;
  std::vector<Thread> threads_;
  std::vector<void*> brought_;      // by thread
  std::vector<Exchange> exchange_;  // by warp
  std::vector<std::function<void()>> later_;
  std::unique_ptr<std::byte[]> shared_;
  size_t shared_capacity_ = 0;
  size_t shared_bytes_ = 0;        // of this block
  std::vector<bool> unpublished_;  // by chunk
  size_t thread_ = 0;
  void* scheduler_ = nullptr;  // its stack pointer while a thread runs
};

}  // namespace kvship::emulation
