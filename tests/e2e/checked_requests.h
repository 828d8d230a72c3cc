// CheckedRequests are requests, greedy and sampled, kept whole and compressed, with the answer that
// each gets while nothing is disturbed: whatever breaks, no other token may be delivered.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/generation_client.h"

namespace kvship {

class CheckedRequests {
 public:
  // Each compression with each length, greedy and sampled.
  struct Mix {
    std::vector<std::string> compressions = {
        "scorer=keep_all,encoder=f32", "budget_tokens=48,window=16,kernel=7,encoder=f16",
        "budget_ratio=0.2,allocator=ada,window=8,kernel=5,encoder=bf16",
        "encoder=fp8,window_encoder=f16,budget_tokens=100,window=16"};
    std::vector<size_t> prompt_tokens = {300};
    size_t most_output_tokens = 12;  // 1 to 4 quarters of them
  };

  CheckedRequests() : CheckedRequests(Mix()) {}
  explicit CheckedRequests(const Mix& mix);

  size_t num_requests() const { return requests_.size(); }

  // Asks for all of them once. Errors: the first request's that fails.
  absl::Status Learn(GenerationClient& client);

  // Sends the index-th request, and again the first behind the last. How it ended; Internal where a
  // token was wrong, the end came later than `timeout` and a grace, or its status does not say what
  // to do. Thread safe.
  absl::Status Send(GenerationClient& client, size_t index, absl::Duration timeout);

  // The same without a deadline of the client's: the server's, after `server_deadline`, must end
  // it. The client must not retry.
  absl::Status SendWithoutDeadline(GenerationClient& client, size_t index,
                                   absl::Duration server_deadline);

  // How many ended with each status code ("OK", "UNAVAILABLE", or "UNAVAILABLE in the middle",
  // after some output), of those that had a second or more.
  std::map<std::string, size_t> outcomes() const;
  // The same of those without a deadline.
  std::map<std::string, size_t> undated_outcomes() const;

 private:
  struct Request {
    std::string name;
    v1::GenerateRequest message;
    std::vector<uint32_t> answer;
  };
  // How a request ended.
  struct End {
    absl::Status status;
    std::vector<uint32_t> tokens;
    absl::Duration taken;
  };

  // The request's end, or what is wrong with it: late, if it comes after `latest`, and early, if
  // its deadline is said to have passed before `deadline`.
  static absl::Status Check(const Request& request, const End& end, absl::Duration deadline,
                            absl::Duration latest);
  void Count(const End& end, std::map<std::string, size_t>& outcomes);

  std::vector<Request> requests_;
  mutable std::mutex mutex_;
  std::map<std::string, size_t> outcomes_;
  std::map<std::string, size_t> undated_outcomes_;
};

}  // namespace kvship
