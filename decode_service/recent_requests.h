// RecentRequests keeps the reports of the last successful requests for the status page: how their
// caches were compressed and where the time went, never their text. Thread safe.
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
  // Each entry holds a few numbers per layer and head, up to about 100 KiB for the largest models.
  static constexpr size_t kMost = 16;

  struct Entry {
    std::string request_id;
    absl::Time ended;             // monotonic
    v1::GenerateReport report;    // with its layers
    absl::Duration receive_time;  // as PrefillAttempt::Result
  };

  // Evicts the oldest entry if there are kMost.
  void Add(Entry entry);

  // Returns the entries, newest first.
  std::vector<Entry> Newest() const;

 private:
  mutable std::mutex mutex_;
  std::deque<Entry> entries_;
};

}  // namespace kvship
