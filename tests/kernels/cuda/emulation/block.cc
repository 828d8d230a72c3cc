#include "tests/kernels/cuda/emulation/block.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// Saves the registers that a call keeps and the stack pointer, and goes on where `to` was saved. By
// hand, because swapcontext() asks the kernel for the signal mask each time, and a kernel's test
// changes fibers millions of times.
extern "C" void KvshipSwitchFiber(void** from, void* to);
asm(R"(
.globl KvshipSwitchFiber
.type KvshipSwitchFiber, @function
KvshipSwitchFiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace kvship::emulation {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kSavedRegisters = 6;

}  // namespace

Block& Block::Current() {
  static Block* const block = new Block;
  return *block;
}

void Block::Enter() {
  Block& block = Current();
  block.body_();
  block.threads_[block.thread_].ended = true;
  block.Pause(Waiting::kNo);
}

void Block::Prepare(Thread& thread) {
  if (!thread.stack) thread.stack = std::make_unique<std::byte[]>(kStackBytes);
  // As a call leaves the stack: aligned to 16 bytes before the return address was pushed.
  auto top = reinterpret_cast<uintptr_t>(thread.stack.get() + kStackBytes) & ~uintptr_t{15};
  void** stack = reinterpret_cast<void**>(top);
  *--stack = nullptr;
  *--stack = reinterpret_cast<void*>(&Block::Enter);
  for (size_t i = 0; i < kSavedRegisters; ++i) *--stack = nullptr;
  thread.stack_pointer = stack;
  thread.waiting = Waiting::kNo;
  thread.ended = false;
}

void Block::Run(size_t num_threads, size_t shared_bytes, const std::function<void()>& body) {
  body_ = body;
  threads_.resize(num_threads);
  brought_.resize(num_threads);
  exchange_.resize((num_threads + kWarpThreads - 1) / kWarpThreads);
  if (shared_bytes > shared_bytes_) {
    // Room to align it to 128 bytes is the allocator's: new aligns to 16, the rest is here.
    shared_ = std::make_unique<std::byte[]>(shared_bytes);
    shared_bytes_ = shared_bytes;
  }
  std::memset(shared_.get(), 0xff, shared_bytes_);
  for (Thread& thread : threads_) Prepare(thread);
  for (;;) {
    bool moved = RunThreads();
    moved |= ReleaseWarps();
    moved |= ReleaseBlock();
    if (std::all_of(threads_.begin(), threads_.end(), [](const Thread& t) { return t.ended; }))
      return;
    if (!moved) {
      std::fprintf(stderr, "a kernel's threads wait for each other at different places\n");
      std::abort();
    }
  }
}

void Block::Resume(size_t thread) {
  thread_ = thread;
  KvshipSwitchFiber(&scheduler_, threads_[thread].stack_pointer);
}

void Block::Pause(Waiting waiting) {
  Thread& own = threads_[thread_];
  own.waiting = waiting;
  KvshipSwitchFiber(&own.stack_pointer, scheduler_);
}

bool Block::RunThreads() {
  bool any = false;
  for (size_t i = 0; i < threads_.size(); ++i) {
    if (threads_[i].ended || threads_[i].waiting != Waiting::kNo) continue;
    Resume(i);
    any = true;
  }
  return any;
}

bool Block::ReleaseWarps() {
  bool any = false;
  for (size_t begin = 0; begin < threads_.size(); begin += kWarpThreads) {
    const auto first = threads_.begin() + static_cast<ptrdiff_t>(begin);
    const auto last =
        first + static_cast<ptrdiff_t>(std::min(kWarpThreads, threads_.size() - begin));
    if (!std::all_of(first, last, [](const Thread& t) { return t.waiting == Waiting::kForWarp; }))
      continue;
    exchange_[begin / kWarpThreads](&brought_[begin]);
    for (auto thread = first; thread != last; ++thread) thread->waiting = Waiting::kNo;
    any = true;
  }
  return any;
}

bool Block::ReleaseBlock() {
  const bool all = std::all_of(threads_.begin(), threads_.end(), [](const Thread& t) {
    return t.ended || t.waiting == Waiting::kForBlock;
  });
  if (!all) return false;
  bool any = false;
  for (Thread& thread : threads_) {
    any |= !thread.ended;
    thread.waiting = Waiting::kNo;
  }
  return any;
}

void Block::Meet() { Pause(Waiting::kForBlock); }

void Block::MeetWarp(void* bring, const Exchange& exchange) {
  brought_[thread_] = bring;
  exchange_[thread_ / kWarpThreads] = exchange;
  Pause(Waiting::kForWarp);
}

}  // namespace kvship::emulation
