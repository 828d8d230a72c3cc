// NoMemoryFor stands for a system that has no memory left for allocations of exactly so many bytes,
// in any thread or in this one alone, as long as it lives. Not under sanitizers, which have their
// own operator new.
#pragma once

#include <cstddef>

#include "tests/sanitized.h"

namespace kvship {

class NoMemoryFor {
 public:
  static constexpr bool kWorks = !kSanitized;

  explicit NoMemoryFor(size_t num_bytes, bool in_this_thread_alone = false);
  ~NoMemoryFor();
  NoMemoryFor(const NoMemoryFor&) = delete;
  NoMemoryFor& operator=(const NoMemoryFor&) = delete;
};

}  // namespace kvship
