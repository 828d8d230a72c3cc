// ClientRequests counts each client's requests that are under way, and bounds them. Thread safe.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvship {

class ClientRequests {
 public:
  // `max_requests` of one client at a time; 0: any number.
  explicit ClientRequests(size_t max_requests) : max_requests_(max_requests) {}

  // Given back when it goes.
  using Place = std::shared_ptr<void>;

  // ResourceExhausted, with a RetryInfo detail and kClientLimit, if the client has as many as it
  // may. All requests without a client's name are one client's.
  absl::StatusOr<Place> Enter(const std::string& client);

  // FailedPrecondition if no client may have so many at a time.
  absl::Status CheckTogether(size_t num_requests) const;

 private:
  void Leave(const std::string& client);

  const size_t max_requests_;
  std::mutex mutex_;
  std::map<std::string, size_t> num_requests_;  // by client; none are 0
};

}  // namespace kvship
