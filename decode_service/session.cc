#include "decode_service/session.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "base/clock.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

bool Contains(const std::vector<int32_t>& tokens, int32_t token) {
  return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

}  // namespace

Session::Session(OutputOptions options, const Tokenizer* tokenizer, ReservationQueue::Cache cache,
                 std::shared_ptr<ResponseBuffer> responses, std::function<void(const End&)> on_end)
    : options_(std::move(options)),
      tokenizer_(tokenizer),
      cache_(std::move(cache)),
      responses_(std::move(responses)),
      on_end_(std::move(on_end)),
      text_(options_.stop),
      single_call_(options_.single_call) {}

Session::~Session() { assert(cache_ == nullptr); }

void Session::Take(const OutputToken& token) {
  assert(!ended_);
  kept_logits_ = {};
  const absl::Time now = MonotonicNow();
  if (end_.output_tokens == 0) first_token_time_ = now;
  if (end_.output_tokens == 1) end_.first_decode = now - first_token_time_;
  end_.decode = now - first_token_time_;
  last_token_time_ = now;
  waits_for_reader_ = false;
  last_token_ = token.token;
  ++end_.output_tokens;
  if (options_.sampling.has_penalty()) ++counts_[token.token];

  const bool is_end = Contains(options_.end_tokens, token.token);
  const bool is_shown = Contains(options_.shown_tokens, token.token);
  std::string text;
  if (tokenizer_ != nullptr && !is_end && (is_shown || !tokenizer_->IsSpecial(token.token))) {
    const bool may_stop = end_.output_tokens > options_.min_tokens && !is_shown;
    text = text_.Add(tokenizer_->TokenBytes(token.token), may_stop);
  }
  if (text_.stopped() || EndsCall(text)) {
    end_.reason = v1::GenerateReport::FINISH_REASON_STOP;
  } else if (is_end) {
    end_.reason = v1::GenerateReport::FINISH_REASON_END;
  } else if (end_.output_tokens == options_.max_tokens) {
    end_.reason = v1::GenerateReport::FINISH_REASON_LENGTH;
  }
  const bool last = end_.reason != v1::GenerateReport::FINISH_REASON_UNSPECIFIED;
  if (last) text += text_.Finish();
  responses_->AddOutput(text, token);
  ended_ = last;
}

bool Session::EndsCall(const std::string& text) {
  return single_call_ && !single_call_->Add(text).calls.empty();
}

absl::StatusOr<std::optional<OutputToken>> Session::Draw(std::span<const float> logits,
                                                         absl::Time deadline) {
  const size_t index = end_.output_tokens;
  TokenMask mask;
  if (structure_ != nullptr) {
    if (!structure_->IsKnown(deadline)) {
      kept_logits_.assign(logits.begin(), logits.end());
      return std::nullopt;
    }
    ASSIGN_OR_RETURN(mask, structure_->TakeAllowed());
  } else if (index < options_.min_tokens) {
    mask = AllTokensBut(options_.end_tokens, logits.size());
  }
  if (!options_.forced_tokens.empty()) {
    return ForceToken(logits, options_.forced_tokens[index], options_.num_logprobs);
  }
  return SampleToken(logits, options_.sampling, index, options_.num_logprobs, counts_, mask);
}

void Session::Fail(const absl::Status& error) {
  end_.status = error;
  ended_ = true;
}

void Session::Close() {
  // The pages first: whoever sees the request's end finds its memory free.
  cache_.reset();
  on_end_(end_);
}

}  // namespace kvship
