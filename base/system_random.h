// Unpredictable random numbers from the system, for ids and seeds. Thread safe.
#pragma once

#include <sys/random.h>

#include <cassert>
#include <cstdint>

namespace kvship {

inline uint64_t SystemRandomBits() {
  uint64_t bits = 0;
  [[maybe_unused]] const ssize_t num_bytes = getrandom(&bits, sizeof bits, 0);
  assert(num_bytes == sizeof bits);  // so few bytes always come whole
  return bits;
}

}  // namespace kvship
