// NoMemoryFor stands for a system that has no memory left for allocations of exactly so many bytes,
// in any thread or in this one alone, as long as it lives. Not under sanitizers, which have their
// own operator new.
#pragma once

#include <cstddef>

namespace kvship {

class NoMemoryFor {
 public:
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  static constexpr bool kWorks = false;
#else
  static constexpr bool kWorks = true;
#endif

  explicit NoMemoryFor(size_t num_bytes, bool in_this_thread_alone = false);
  ~NoMemoryFor();
  NoMemoryFor(const NoMemoryFor&) = delete;
  NoMemoryFor& operator=(const NoMemoryFor&) = delete;
};

}  // namespace kvship
