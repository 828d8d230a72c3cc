// Lets a request fail when the system is out of memory, instead of the process.
#pragma once

#include <new>

#include "absl/status/status.h"

namespace kvship {

// Returns the status of `work`, or ResourceExhausted if it could not allocate; what it had
// allocated is then freed.
template <class Work>
absl::Status UnlessOutOfMemory(const Work& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("this node has no memory left for the request");
  }
}

}  // namespace kvship
