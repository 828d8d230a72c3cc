#include "tests/e2e/fault_requests.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/random.h"
#include "client/generation_client.h"
#include "rpc/compression.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

// On a busy machine, and under a sanitizer.
constexpr absl::Duration kGrace = absl::Seconds(10);

// Whether a client knows what to do next: send the request again, or give it more time.
bool TellsWhatToDo(const absl::Status& end) {
  return end.ok() || absl::IsUnavailable(end) || absl::IsDeadlineExceeded(end) ||
         (absl::IsResourceExhausted(end) && RetryDelayOf(end).has_value());
}

absl::Status Ask(const std::string& server, const v1::GenerateRequest& request,
                 absl::Duration timeout, std::vector<uint32_t>* tokens) {
  GenerationClient client(server, {.retries = 0});
  return client
      .Generate(request, absl::Now() + timeout,
                [&](const v1::GenerateResponse& response) {
                  for (const v1::OutputToken& token : response.output().tokens()) {
                    tokens->push_back(token.token_id());
                  }
                })
      .status();
}

}  // namespace

FaultRequests::FaultRequests() {
  for (const char* compression : {"scorer=keep_all,encoder=f32", "budget_tokens=100,window=16",
                                  "allocator=ada,budget_tokens=100,window=16",
                                  "encoder=fp8,window_encoder=f16,budget_tokens=100,window=16"}) {
    for (const double temperature : {0.0, 1.0}) {
      v1::GenerateRequest& message = requests_.emplace_back().message;
      for (size_t i = 0; i < 300; ++i) {
        message.mutable_tokens()->add_ids(RandomBits(requests_.size(), i) % 320);
      }
      *message.mutable_compression() = *CompressionFromText(compression);
      message.mutable_sampling()->set_temperature(temperature);
      message.mutable_sampling()->set_seed(requests_.size());
      message.set_max_tokens(12);
      message.set_ignore_end_tokens(true);
    }
  }
}

absl::Status FaultRequests::Learn(const std::string& server) {
  for (Request& request : requests_) {
    request.answer.clear();
    const absl::Status end = Ask(server, request.message, absl::Seconds(60), &request.answer);
    if (!end.ok()) return end;
  }
  return absl::OkStatus();
}

absl::Status FaultRequests::Send(const std::string& server, size_t index, absl::Duration timeout) {
  const Request& request = requests_[index % requests_.size()];
  std::vector<uint32_t> tokens;
  const absl::Time begin = MonotonicNow();
  const absl::Status end = Ask(server, request.message, timeout, &tokens);
  const absl::Duration taken = MonotonicNow() - begin;
  {
    std::lock_guard lock(mutex_);
    ++ends_[end.code()];
  }
  const bool right = tokens.size() <= request.answer.size() &&
                     std::equal(tokens.begin(), tokens.end(), request.answer.begin()) &&
                     (!end.ok() || tokens.size() == request.answer.size());
  if (!right) return absl::InternalError(absl::StrCat("request ", index, " got a wrong token"));
  if (taken > timeout + kGrace) {
    return absl::InternalError(
        absl::StrCat("request ", index, " took ", absl::FormatDuration(taken)));
  }
  if (!TellsWhatToDo(end)) {
    return absl::InternalError(absl::StrCat("request ", index, " ended with ", end.ToString()));
  }
  return end;
}

std::string FaultRequests::Ends() const {
  std::lock_guard lock(mutex_);
  std::string text;
  for (const auto& [code, count] : ends_) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", absl::StatusCodeToString(code), " ", count);
  }
  return text;
}

size_t FaultRequests::num_ended(absl::StatusCode code) const {
  std::lock_guard lock(mutex_);
  const auto at = ends_.find(code);
  return at == ends_.end() ? 0 : at->second;
}

}  // namespace kvship
