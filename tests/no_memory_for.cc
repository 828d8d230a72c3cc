#include "tests/no_memory_for.h"

#include <atomic>
#include <cstdlib>
#include <new>

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {
std::atomic<size_t> missing_bytes = 0;  // none
thread_local size_t missing_here_bytes = 0;
}  // namespace

void* operator new(size_t num_bytes) {
  const bool is_missing =
      num_bytes != 0 && (num_bytes == missing_bytes || num_bytes == missing_here_bytes);
  void* const allocated = is_missing ? nullptr : std::malloc(num_bytes == 0 ? 1 : num_bytes);
  if (allocated == nullptr) throw std::bad_alloc();
  return allocated;
}
void operator delete(void* allocated) noexcept { std::free(allocated); }
void operator delete(void* allocated, size_t) noexcept { std::free(allocated); }

namespace kvship {
NoMemoryFor::NoMemoryFor(size_t num_bytes, bool in_this_thread_alone) {
  if (in_this_thread_alone) {
    missing_here_bytes = num_bytes;
  } else {
    missing_bytes = num_bytes;
  }
}
NoMemoryFor::~NoMemoryFor() { missing_bytes = missing_here_bytes = 0; }
}  // namespace kvship

#else

namespace kvship {
NoMemoryFor::NoMemoryFor(size_t, bool) {}
NoMemoryFor::~NoMemoryFor() = default;
}  // namespace kvship

#endif
