// HttpLoad asks a decode server over HTTP, from three clients at a time and over and over, for one
// streamed answer. One client reads it to its end, one slowly, and one goes away half-way; what
// each of them reads is held to the answer that came while nothing else ran.
#pragma once

#include <array>
#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"

namespace kvship {

class HttpLoad {
 public:
  enum class Reader { kWhole, kSlow, kGoesHalfWay };
  static constexpr size_t kReaders = 3;

  // Asks once, undisturbed; a failure is in faults().
  explicit HttpLoad(int http_port);
  ~HttpLoad() { Stop(); }

  // Sends requests until Stop, which waits for the answers of those under way.
  void Start();
  void Stop();

  // Answers that were read as far as that client reads.
  size_t num_answers(Reader reader) const { return num_answers_[static_cast<size_t>(reader)]; }
  // Wrong tokens, and answers that did not end as they should, each one described.
  std::vector<std::string> faults() const;

 private:
  void Run(Reader reader);
  // The answer's events, as far as `reader` reads them.
  absl::StatusOr<std::string> Ask(Reader reader) const;
  void NoteFault(const std::string& fault);

  const int http_port_;
  std::string request_;
  size_t answer_bytes_ = 0;
  std::vector<std::string> answer_;  // its tokens
  std::atomic<bool> stop_{false};
  std::array<std::atomic<size_t>, kReaders> num_answers_ = {};
  std::vector<std::thread> threads_;
  mutable std::mutex mutex_;
  std::vector<std::string> faults_;
};

}  // namespace kvship
