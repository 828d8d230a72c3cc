#include "tests/e2e/checked_load.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/random.h"
#include "rpc/compression.h"

namespace kvship {
namespace {

constexpr size_t kVocabTokens = 320;  // of the tiny golden models

constexpr absl::Duration kLongTimeout = absl::Seconds(30);
constexpr absl::Duration kShortTimeout = absl::Milliseconds(15);
constexpr uint64_t kShortOneOf = 12;

// How late the end of a call may be noticed on a busy machine.
constexpr absl::Duration kLateness = absl::Seconds(3);

// A name of gRPC's that stands for all servers, tried in this order.
std::string TargetOf(std::vector<std::string> servers, size_t first) {
  std::rotate(servers.begin(), servers.begin() + static_cast<ptrdiff_t>(first % servers.size()),
              servers.end());
  return absl::StrCat("ipv4:", absl::StrJoin(servers, ","));
}

// Whether a client that gets it knows what to do: send the request again, perhaps later.
bool TellsWhatToDo(const absl::Status& status, bool may_be_late) {
  if (status.ok()) return true;
  if (status.message().empty()) return false;
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
         (absl::IsDeadlineExceeded(status) && may_be_late);
}

}  // namespace

CheckedLoad::CheckedLoad(const Options& options) : options_(options) {
  for (size_t i = 0; i < options_.num_clients; ++i) {
    clients_.push_back(std::make_unique<GenerationClient>(
        TargetOf(options_.servers, i), GenerationClient::Options{.retries = options_.retries}));
  }
  MakeCases();
  for (Case& wanted : cases_) {
    const auto report = clients_[0]->Generate(wanted.request, absl::Now() + kLongTimeout,
                                              [&wanted](const v1::GenerateResponse& part) {
                                                for (const auto& token : part.output().tokens()) {
                                                  wanted.answer.push_back(token.token_id());
                                                }
                                              });
    if (!report.ok()) AddFault(absl::StrCat(wanted.name, ": ", report.status().ToString()));
  }
}

void CheckedLoad::MakeCases() {
  const size_t kPromptTokens[] = {24, 300, 1500};
  for (const size_t prompt_tokens : kPromptTokens) {
    for (const std::string& kept : options_.compressions) {
      for (const bool sampled : {false, true}) {
        const uint64_t seed = cases_.size();
        Case wanted;
        wanted.name = absl::StrCat("case ", seed, " (", prompt_tokens, " tokens, ", kept,
                                   sampled ? ", sampled)" : ", greedy)");
        for (size_t i = 0; i < prompt_tokens; ++i) {
          wanted.request.mutable_tokens()->add_ids(
              static_cast<uint32_t>(RandomBits(seed, i) % kVocabTokens));
        }
        *wanted.request.mutable_compression() = *CompressionFromText(kept);
        wanted.request.set_max_tokens(static_cast<uint32_t>(20 + 60 * (seed % 4)));
        wanted.request.set_ignore_end_tokens(true);
        if (sampled) {
          wanted.request.mutable_sampling()->set_temperature(1.2f);
          wanted.request.mutable_sampling()->set_seed(seed);
        }
        cases_.push_back(std::move(wanted));
      }
    }
  }
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
    Ask(*clients_[client], cases_[random % cases_.size()], is_short ? kShortTimeout : kLongTimeout);
  }
}

void CheckedLoad::Ask(GenerationClient& client, const Case& wanted, absl::Duration timeout) {
  size_t num_tokens = 0;
  const absl::Time begun = MonotonicNow();
  const auto report =
      client.Generate(wanted.request, absl::Now() + timeout, [&](const v1::GenerateResponse& part) {
        for (const auto& token : part.output().tokens()) {
          const bool is_right =
              num_tokens < wanted.answer.size() && wanted.answer[num_tokens] == token.token_id();
          if (!is_right) {
            AddFault(
                absl::StrCat(wanted.name, ": output token ", num_tokens, " is ", token.token_id()));
          }
          ++num_tokens;
        }
      });
  const absl::Duration taken = MonotonicNow() - begun;
  if (report.ok() && num_tokens != wanted.answer.size()) {
    AddFault(
        absl::StrCat(wanted.name, ": OK after ", num_tokens, " tokens of ", wanted.answer.size()));
  }
  if (taken > timeout + kLateness) {
    AddFault(absl::StrCat(wanted.name, ": ended ", absl::FormatDuration(taken - timeout),
                          " after its deadline with ", report.status().ToString()));
  }
  // On a busy machine a server, which counts from when it read the call, is early by milliseconds.
  const bool may_be_late = timeout == kShortTimeout || taken >= timeout;
  if (!TellsWhatToDo(report.status(), may_be_late)) {
    AddFault(absl::StrCat(wanted.name, ": ", report.status().ToString(), " after ",
                          absl::FormatDuration(taken)));
  }
  if (timeout == kShortTimeout) return;
  std::lock_guard lock(mutex_);
  ++outcomes_[absl::StrCat(absl::StatusCodeToString(report.status().code()),
                           !report.ok() && num_tokens > 0 ? " in the middle" : "")];
}

void CheckedLoad::AddFault(const std::string& fault) {
  std::lock_guard lock(mutex_);
  faults_.push_back(fault);
}

std::map<std::string, size_t> CheckedLoad::outcomes() const {
  std::lock_guard lock(mutex_);
  return outcomes_;
}

std::vector<std::string> CheckedLoad::faults() const {
  std::lock_guard lock(mutex_);
  return faults_;
}

}  // namespace kvship
