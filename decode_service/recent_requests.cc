#include "decode_service/recent_requests.h"

#include <utility>

namespace kvship {

void RecentRequests::Add(Entry entry) {
  std::lock_guard lock(mutex_);
  if (entries_.size() == kMost) entries_.pop_back();
  entries_.push_front(std::move(entry));
}

std::vector<RecentRequests::Entry> RecentRequests::Newest() const {
  std::lock_guard lock(mutex_);
  return {entries_.begin(), entries_.end()};
}

}  // namespace kvship
