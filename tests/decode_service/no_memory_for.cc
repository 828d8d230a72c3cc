#include "tests/decode_service/no_memory_for.h"

#include <atomic>
#include <cstdlib>
#include <new>

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {
std::atomic<size_t> missing_bytes = 0;  // none
}  // namespace

void* operator new(size_t num_bytes) {
  void* const allocated =
      num_bytes == missing_bytes ? nullptr : std::malloc(num_bytes + !num_bytes);
  if (allocated == nullptr) throw std::bad_alloc();
  return allocated;
}
void operator delete(void* allocated) noexcept { std::free(allocated); }
void operator delete(void* allocated, size_t) noexcept { std::free(allocated); }

namespace kvship {
NoMemoryFor::NoMemoryFor(size_t num_bytes) { missing_bytes = num_bytes; }
NoMemoryFor::~NoMemoryFor() { missing_bytes = 0; }
}  // namespace kvship

#else

namespace kvship {
NoMemoryFor::NoMemoryFor(size_t) {}
NoMemoryFor::~NoMemoryFor() = default;
}  // namespace kvship

#endif
