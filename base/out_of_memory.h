// Where the system has no memory for a request, the request ends, and not the process.
#pragma once

#include <new>

#include "absl/status/status.h"

namespace kvship {

// The status that `work` gives, or ResourceExhausted if it could not allocate; what it holds is
// then freed.
template <class Work>
absl::Status UnlessOutOfMemory(const Work& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("this node has no memory left for the request");
  }
}

}  // namespace kvship
