#include "tests/e2e/checked_requests.h"

#include <algorithm>
#include <condition_variable>
#include <stop_token>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/random.h"
#include "rpc/compression.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

constexpr size_t kVocabTokens = 320;  // of the tiny golden models

// How late the end of a call may be noticed on a busy machine, and under a sanitizer.
constexpr absl::Duration kLateness = absl::Seconds(10);
// The same of a server that ends a call by its own deadline.
constexpr absl::Duration kServerLateness = absl::Seconds(3);
// How early a server, whose clock and rounding are its own, may find that a deadline has passed.
constexpr absl::Duration kEarliness = absl::Milliseconds(20);

// Requests with less are there to miss it.
constexpr absl::Duration kLeastCountedTimeout = absl::Seconds(1);

// Whether a client that gets it knows what to do: send the request again, or give it more time.
bool TellsWhatToDo(const absl::Status& end, bool is_late) {
  if (end.ok()) return true;
  if (end.message().empty()) return false;
  return absl::IsUnavailable(end) || (absl::IsDeadlineExceeded(end) && is_late) ||
         (absl::IsResourceExhausted(end) && RetryDelayOf(end).has_value());
}

absl::Status Ask(GenerationClient& client, const v1::GenerateRequest& request,
                 absl::Duration timeout, std::vector<uint32_t>* tokens,
                 const std::stop_token& stop = {}) {
  return client
      .Generate(
          request, timeout,
          [&](const v1::GenerateResponse& response) {
            for (const v1::OutputToken& token : response.output().tokens()) {
              tokens->push_back(token.token_id());
            }
          },
          stop)
      .status();
}

}  // namespace

CheckedRequests::CheckedRequests(const Mix& mix) {
  for (const size_t prompt_tokens : mix.prompt_tokens) {
    for (const std::string& compression : mix.compressions) {
      for (const bool sampled : {false, true}) {
        const uint64_t seed = requests_.size();
        Request& request = requests_.emplace_back();
        request.name = absl::StrCat("request ", seed, " (", prompt_tokens, " tokens, ", compression,
                                    sampled ? ", sampled)" : ", greedy)");
        for (size_t i = 0; i < prompt_tokens; ++i) {
          request.message.mutable_tokens()->add_ids(
              static_cast<uint32_t>(RandomBits(seed, i) % kVocabTokens));
        }
        *request.message.mutable_compression() = *CompressionFromText(compression);
        request.message.set_max_tokens(
            static_cast<uint32_t>(mix.most_output_tokens * (1 + seed % 4) / 4));
        request.message.set_ignore_end_tokens(true);
        if (sampled) {
          request.message.mutable_sampling()->set_temperature(1.2f);
          request.message.mutable_sampling()->set_seed(seed);
        }
      }
    }
  }
}

absl::Status CheckedRequests::Learn(GenerationClient& client) {
  for (Request& request : requests_) {
    request.answer.clear();
    const absl::Status end = Ask(client, request.message, absl::Minutes(1), &request.answer);
    if (!end.ok()) return absl::Status(end.code(), absl::StrCat(request.name, ": ", end.message()));
  }
  return absl::OkStatus();
}

absl::Status CheckedRequests::Send(GenerationClient& client, size_t index, absl::Duration timeout) {
  const Request& request = requests_[index % requests_.size()];
  End end;
  const absl::Time begin = MonotonicNow();
  end.status = Ask(client, request.message, timeout, &end.tokens);
  end.taken = MonotonicNow() - begin;
  if (timeout >= kLeastCountedTimeout) Count(end, outcomes_);
  return Check(request, end, timeout, timeout + kLateness);
}

absl::Status CheckedRequests::SendWithoutDeadline(GenerationClient& client, size_t index,
                                                  absl::Duration server_deadline) {
  const Request& request = requests_[index % requests_.size()];
  const absl::Duration latest = server_deadline + kServerLateness;
  // So that a server which never ends it is a failure and no test that hangs.
  std::stop_source give_up;
  std::jthread watch([&give_up, latest](const std::stop_token& ended) {
    std::mutex mutex;
    std::condition_variable_any wake;
    std::unique_lock lock(mutex);
    wake.wait_for(lock, ended, absl::ToChronoNanoseconds(latest), [] { return false; });
    if (!ended.stop_requested()) give_up.request_stop();
  });
  End end;
  const absl::Time begin = MonotonicNow();
  end.status =
      Ask(client, request.message, absl::InfiniteDuration(), &end.tokens, give_up.get_token());
  end.taken = MonotonicNow() - begin;
  Count(end, undated_outcomes_);
  return Check(request, end, server_deadline, latest);
}

void CheckedRequests::Count(const End& end, std::map<std::string, size_t>& outcomes) {
  std::lock_guard lock(mutex_);
  ++outcomes[absl::StrCat(absl::StatusCodeToString(end.status.code()),
                          !end.status.ok() && !end.tokens.empty() ? " in the middle" : "")];
}

absl::Status CheckedRequests::Check(const Request& request, const End& end, absl::Duration deadline,
                                    absl::Duration latest) {
  const std::vector<uint32_t>& answer = request.answer;
  const bool is_right = end.tokens.size() <= answer.size() &&
                        std::equal(end.tokens.begin(), end.tokens.end(), answer.begin()) &&
                        (!end.status.ok() || end.tokens.size() == answer.size());
  const std::string how =
      absl::StrCat(request.name, " after ", absl::FormatDuration(end.taken), ", ",
                   end.tokens.size(), " tokens of ", answer.size(), ": ", end.status.ToString());
  if (!is_right) return absl::InternalError(absl::StrCat("a wrong token: ", how));
  if (end.taken > latest) return absl::InternalError(absl::StrCat("too late: ", how));
  if (!TellsWhatToDo(end.status, end.taken + kEarliness >= deadline)) {
    return absl::InternalError(absl::StrCat("does not tell what to do: ", how));
  }
  return end.status;
}

std::map<std::string, size_t> CheckedRequests::outcomes() const {
  std::lock_guard lock(mutex_);
  return outcomes_;
}

std::map<std::string, size_t> CheckedRequests::undated_outcomes() const {
  std::lock_guard lock(mutex_);
  return undated_outcomes_;
}

}  // namespace kvship
