#include "decode_service/client_requests.h"

#include "absl/strings/str_cat.h"
#include "decode_service/rejection.h"
#include "rpc/errors.h"

namespace kvship {

absl::StatusOr<ClientRequests::Place> ClientRequests::Enter(const std::string& client) {
  std::unique_lock lock(mutex_);
  const auto at = num_requests_.find(client);
  if (max_requests_ > 0 && at != num_requests_.end() && at->second >= max_requests_) {
    const absl::Status full = absl::ResourceExhaustedError(
        absl::StrCat("the client has ", at->second, " requests under way; wanted fewer than ",
                     max_requests_, " before another one"));
    return WithRetryDelay(WithReason(full, kClientLimit), kRetryDelay);
  }
  ++num_requests_[client];
  lock.unlock();  // if allocating the place fails, Leave runs at once and locks
  return Place(this, [this, client](void*) { Leave(client); });
}

absl::Status ClientRequests::CheckTogether(size_t num_requests) const {
  if (max_requests_ == 0 || num_requests <= max_requests_) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the request has ", num_requests, " choices, each counted as a request; one ",
                   "client may have ", max_requests_, " under way"));
}

void ClientRequests::Leave(const std::string& client) {
  std::lock_guard lock(mutex_);
  const auto at = num_requests_.find(client);
  if (--at->second == 0) num_requests_.erase(at);
}

}  // namespace kvship
