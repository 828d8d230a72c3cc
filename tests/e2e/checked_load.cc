#include "tests/e2e/checked_load.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/random.h"
#include "tests/e2e/processes.h"

namespace kvship {
namespace {

constexpr absl::Duration kLongTimeout = absl::Seconds(30);
constexpr absl::Duration kShortTimeout = absl::Milliseconds(15);
constexpr uint64_t kShortOneOf = 12;
constexpr uint64_t kUndatedOneOf = 5;

// A name of gRPC's that stands for all servers, tried in this order.
std::string TargetOf(std::vector<std::string> servers, size_t first) {
  std::rotate(servers.begin(), servers.begin() + static_cast<ptrdiff_t>(first % servers.size()),
              servers.end());
  return absl::StrCat("ipv4:", absl::StrJoin(servers, ","));
}

}  // namespace

bool Connects(GenerationClient& client) {
  return Eventually([&client] { return client.GetModelInfo(absl::Seconds(5)).ok(); });
}

CheckedLoad::CheckedLoad(const Options& options)
    : options_(options),
      requests_({.compressions = options.compressions,
                 .prompt_tokens = {24, 300, 1500},
                 .most_output_tokens = 200}) {
  for (size_t i = 0; i < options_.num_clients; ++i) {
    const std::string target = TargetOf(options_.servers, i);
    clients_.push_back(std::make_unique<GenerationClient>(
        target, GenerationClient::Options{.retries = options_.retries,
                                          .credentials = options_.credentials}));
    clients_without_retries_.push_back(std::make_unique<GenerationClient>(
        target, GenerationClient::Options{.retries = 0, .credentials = options_.credentials}));
  }
  for (const auto* clients : {&clients_, &clients_without_retries_}) {
    for (const auto& client : *clients) {
      if (!Connects(*client)) NoteFault(absl::UnavailableError("a client does not connect"));
    }
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
    const absl::Status end = Ask(client, RandomBits(options_.seed, num_asked_++));
    if (absl::IsInternal(end)) NoteFault(end);
  }
}

absl::Status CheckedLoad::Ask(size_t client, uint64_t random) {
  const size_t request = random % requests_.num_requests();
  const bool is_short = (random >> 32) % kShortOneOf == 0;
  const bool is_undated =
      options_.server_deadline != absl::InfiniteDuration() && (random >> 48) % kUndatedOneOf == 0;
  if (is_undated) {
    return requests_.SendWithoutDeadline(*clients_without_retries_[client], request,
                                         options_.server_deadline);
  }
  return requests_.Send(*clients_[client], request, is_short ? kShortTimeout : kLongTimeout);
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
