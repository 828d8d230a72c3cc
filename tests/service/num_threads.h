// How many threads this process has.
#pragma once

#include <cstddef>
#include <filesystem>
#include <iterator>

namespace kvship {

inline size_t NumThreads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<size_t>(std::distance(begin(tasks), end(tasks)));
}

}  // namespace kvship
