// What must hold whatever the input is: where it does not, the fuzz target ends with the sentence.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace kvship {

inline void Require(bool holds, const char* sentence) {
  if (holds) return;
  std::fprintf(stderr, "this does not hold: %s\n", sentence);
  std::abort();
}

}  // namespace kvship
