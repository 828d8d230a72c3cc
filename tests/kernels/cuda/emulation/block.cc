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
constexpr size_t kChunkBytes = 16;

}  // namespace

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

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
  thread.unpublished.clear();
  thread.ended = false;
}

void Block::Run(size_t num_threads, size_t shared_bytes, const std::function<void()>& body) {
  body_ = body;
  threads_.resize(num_threads);
  brought_.resize(num_threads);
  exchange_.resize((num_threads + kWarpThreads - 1) / kWarpThreads);
  if (shared_bytes > shared_capacity_) {
    shared_ = std::make_unique<std::byte[]>(shared_bytes);
    shared_capacity_ = shared_bytes;
  }
  shared_bytes_ = shared_bytes;
  if (shared_bytes > 0) std::memset(shared_.get(), 0xff, shared_bytes);
  unpublished_.assign((shared_bytes + kChunkBytes - 1) / kChunkBytes, false);
  for (Thread& thread : threads_) Prepare(thread);
  for (;;) {
    bool moved = RunThreads();
    moved |= ReleaseWarps();
    moved |= ReleaseBlock();
    moved |= ReleaseConditions();
    if (std::all_of(threads_.begin(), threads_.end(), [](const Thread& t) { return t.ended; }))
      break;
    Require(moved || WorkOnce(), "a kernel's threads wait for what never comes");
  }
  Require(later_.empty(), "a block ended before what it had started");
}

void Block::Wrote(const void* shared) {
  const size_t chunk = (SharedAddress(shared) - kSharedBegin) / kChunkBytes;
  unpublished_[chunk] = true;
  threads_[thread_].unpublished.push_back(chunk);
}

void Block::Publish() {
  for (const size_t chunk : threads_[thread_].unpublished) unpublished_[chunk] = false;
  threads_[thread_].unpublished.clear();
}

bool Block::IsPublished(const void* shared) const {
  return !unpublished_[(SharedAddress(shared) - kSharedBegin) / kChunkBytes];
}

uint32_t Block::SharedAddress(const void* shared) const {
  return kSharedBegin +
         static_cast<uint32_t>(static_cast<const std::byte*>(shared) - shared_.get());
}

std::byte* Block::AtSharedAddress(uint32_t address, size_t num_bytes) {
  Require(address >= kSharedBegin && address - kSharedBegin + num_bytes <= shared_bytes_,
          "an access beyond shared memory");
  return shared_.get() + (address - kSharedBegin);
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

bool Block::ReleaseConditions() {
  bool any = false;
  for (Thread& thread : threads_) {
    if (thread.waiting != Waiting::kForCondition || !thread.condition()) continue;
    thread.waiting = Waiting::kNo;
    any = true;
  }
  return any;
}

bool Block::WorkOnce() {
  if (later_.empty()) return false;
  const std::function<void()> work = std::move(later_.back());
  later_.pop_back();
  work();
  return true;
}

void Block::Meet() { Pause(Waiting::kForBlock); }

void Block::MeetWarp(void* bring, const Exchange& exchange) {
  brought_[thread_] = bring;
  exchange_[thread_ / kWarpThreads] = exchange;
  Pause(Waiting::kForWarp);
}

void Block::WaitUntil(const std::function<bool()>& condition) {
  if (condition()) return;
  threads_[thread_].condition = condition;
  Pause(Waiting::kForCondition);
}

}  // namespace kvship::emulation
