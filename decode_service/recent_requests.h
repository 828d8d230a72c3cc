// RecentRequests are the reports of the last requests that succeeded, for the status page: what
// became of their prompts' caches and where the time went, never what they said. Thread safe.
#pragma once

#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

class RecentRequests {
 public:
  // Each holds a few numbers per layer and head, up to some 100 KiB for the largest models.
  static constexpr size_t kMost = 16;

  struct Entry {
    std::string request_id;
    absl::Time ended;             // of the monotonic clock
    v1::GenerateReport report;    // with its layers
    absl::Duration receive_time;  // as PrefillAttempt::Result
  };

  // Forgets the oldest where there are kMost already.
  void Add(Entry entry);

  // The newest first.
  std::vector<Entry> Newest() const;

 private:
  mutable std::mutex mutex_;
  std::deque<Entry> entries_;
};

}  // namespace kvship
