// A mix of requests, greedy and sampled, kept whole and compressed, with the answer that each gets
// while nothing is disturbed: whatever breaks, no other token may be delivered.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

class FaultRequests {
 public:
  FaultRequests();

  // Asks for all of them once. Errors: the first request's that fails.
  absl::Status Learn(const std::string& server);

  // Sends the index-th request, and again the first behind the last. How it ended; Internal where a
  // token was wrong, the end came later than `timeout` and a grace, or its status does not say what
  // to do. Thread safe.
  absl::Status Send(const std::string& server, size_t index, absl::Duration timeout);

  // "OK 12, UNAVAILABLE 3", of all that were sent.
  std::string Ends() const;
  size_t num_ended(absl::StatusCode code) const;

 private:
  struct Request {
    v1::GenerateRequest message;
    std::vector<uint32_t> answer;
  };

  std::vector<Request> requests_;
  mutable std::mutex mutex_;
  std::map<absl::StatusCode, size_t> ends_;
};

}  // namespace kvship
