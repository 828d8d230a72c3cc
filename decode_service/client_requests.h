// ClientRequests counts and limits each client's concurrent requests. Thread safe.
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
  // At most `max_requests` of one client at a time; 0: unlimited.
  explicit ClientRequests(size_t max_requests) : max_requests_(max_requests) {}

  // A slot; returned when the last copy is destroyed.
  using Place = std::shared_ptr<void>;

  // Takes a slot. ResourceExhausted, with a RetryInfo detail and kClientLimit, if the client holds
  // all of its slots. All requests without a client name count as one client's.
  absl::StatusOr<Place> Enter(const std::string& client);

  // FailedPrecondition if `num_requests` at a time exceed the limit of one client.
  absl::Status CheckTogether(size_t num_requests) const;

 private:
  void Leave(const std::string& client);

  const size_t max_requests_;
  std::mutex mutex_;
  std::map<std::string, size_t> num_requests_;  // by client; never 0
};

}  // namespace kvship
