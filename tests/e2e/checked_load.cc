#include "tests/e2e/checked_load.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/random.h"

namespace kvship {
namespace {

constexpr absl::Duration kLongTimeout = absl::Seconds(30);
constexpr absl::Duration kShortTimeout = absl::Milliseconds(15);
constexpr uint64_t kShortOneOf = 12;

// A name of gRPC's that stands for all servers, tried in this order.
std::string TargetOf(std::vector<std::string> servers, size_t first) {
  std::rotate(servers.begin(), servers.begin() + static_cast<ptrdiff_t>(first % servers.size()),
              servers.end());
  return absl::StrCat("ipv4:", absl::StrJoin(servers, ","));
}

}  // namespace

CheckedLoad::CheckedLoad(const Options& options)
    : options_(options),
      requests_({.compressions = options.compressions,
                 .prompt_tokens = {24, 300, 1500},
                 .most_output_tokens = 200}) {
  for (size_t i = 0; i < options_.num_clients; ++i) {
    clients_.push_back(std::make_unique<GenerationClient>(
        TargetOf(options_.servers, i), GenerationClient::Options{.retries = options_.retries}));
  }
  if (const absl::Status learnt = requests_.Learn(*clients_[0]); !learnt.ok()) NoteFault(learnt);
}

void CheckedLoad::Start() {
  stop_ = false;
  for (size_t i = 0; i < clients_.size(); ++i) threads_.emplace_back([this, i] { Run(i); });
}

void CheckedLoad::Stop() {
  stop_ = true;
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void CheckedLoad::Run(size_t client) {
  while (!stop_) {
    const uint64_t random = RandomBits(options_.seed, num_asked_++);
    const bool is_short = (random >> 32) % kShortOneOf == 0;
    const absl::Status end = requests_.Send(*clients_[client], random % requests_.num_requests(),
                                            is_short ? kShortTimeout : kLongTimeout);
    if (absl::IsInternal(end)) NoteFault(end);
  }
}

void CheckedLoad::NoteFault(const absl::Status& end) {
  std::lock_guard lock(mutex_);
  faults_.emplace_back(end.message());
}

std::vector<std::string> CheckedLoad::faults() const {
  std::lock_guard lock(mutex_);
  return faults_;
}

}  // namespace kvship
