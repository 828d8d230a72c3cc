// Session is one request in the decode batch: it holds the cache and the next input token, and
// turns logits into output until the output ends. Once joined, it belongs to the decode loop. Who
// sees it ended closes it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "decode_service/output_text.h"
#include "decode_service/reservation_queue.h"
#include "decode_service/response_buffer.h"
#include "decode_service/structured_output.h"
#include "engine/decoder.h"
#include "engine/sampling.h"
#include "engine/tokenizer.h"
#include "engine/tool_call_reader.h"

namespace kvship {

struct OutputOptions {
  SamplingOptions sampling = {};
  size_t max_tokens = 1;  // at least 1
  size_t min_tokens = 0;  // before this many, no end token or stop text ends the output
  size_t num_logprobs = 0;
  std::vector<int32_t> forced_tokens = {};  // none, or max_tokens of them
  std::vector<int32_t> end_tokens = {};     // any of them ends the output
  std::vector<std::string> stop = {};
  // Special tokens whose names are still part of the output text; no stop text ends in them.
  std::vector<int32_t> shown_tokens = {};
  // If set, it is given the output text, and the first call that it finds ends the output.
  std::optional<ToolCallReader> single_call = {};
};

class Session {
 public:
  // How a session ended. `status` is not OK if it was cancelled or a step failed.
  struct End {
    absl::Status status;
    v1::GenerateReport::FinishReason reason = v1::GenerateReport::FINISH_REASON_UNSPECIFIED;
    size_t output_tokens = 0;
    absl::Duration first_decode;  // from the first to the second output token
    absl::Duration decode;        // from the first to the last one
  };

  // `cache` holds the prompt and has room for max_tokens - 1 more. `tokenizer` may be null: the
  // output then has no text. `responses` is shared with the call that reads it. `on_end` is called
  // by Close.
  Session(OutputOptions options, const Tokenizer* tokenizer, ReservationQueue::Cache cache,
          std::shared_ptr<ResponseBuffer> responses, std::function<void(const End&)> on_end);
  ~Session();

  // Counts the prompt's tokens for the repetition penalty; call before the first Take.
  void CountPrompt(std::span<const int32_t> prompt) {
    counts_ = PromptCounts(prompt, options_.sampling);
  }
  // Constrains the output to a structure, if `matcher` is not null; call before the first Take.
  void HoldTo(std::unique_ptr<OutputMatcher> matcher, const std::string& client) {
    if (matcher == nullptr) return;
    structure_ = std::make_shared<StructuredOutput>(std::move(matcher), client);
  }
  const std::shared_ptr<StructuredOutput>& structure() const { return structure_; }  // may be null
  // Appends the next output token; the first one comes from the prefill node.
  void Take(const OutputToken& token);
  // Draws the next token, to be taken, from the previous one's logits. If by `deadline` it is not
  // known what the structure allows, keeps the logits and draws nothing. Sessions may draw at the
  // same time. Internal if the structure allows no token; NoLogits() as SampleToken().
  absl::StatusOr<std::optional<OutputToken>> Draw(std::span<const float> logits,
                                                  absl::Time deadline);
  // Of a token that is still to be drawn; else empty.
  std::span<const float> kept_logits() const { return kept_logits_; }

  bool ended() const { return ended_; }
  bool cancelled() const { return responses_->cancelled(); }
  // Returns whether the reader keeps up.
  bool has_room() const { return responses_->has_room(); }
  // Notes that it sits out a step because the reader does not. True until the next token.
  void WaitForReader() { waits_for_reader_ = true; }
  bool waits_for_reader() const { return waits_for_reader_; }
  Decoder::Item item() const {
    return {.token = last_token_,
            .cache = cache_.get(),
            .wants_logits = wants_logits(),
            .draw = options_.sampling.DrawOf(end_.output_tokens)};
  }
  const std::shared_ptr<ResponseBuffer>& responses() const { return responses_; }
  absl::Time last_token_time() const { return last_token_time_; }

  // Ends the session with an error; the output so far has been sent.
  void Fail(const absl::Status& error);
  // Returns an ended session's cache to the pool and calls on_end, which may take long: others wait
  // for the memory. Once.
  void Close();

 private:
  // Whether the output's next `text` ends a call after which no other may come.
  bool EndsCall(const std::string& text);
  // If false, the decoder samples the next token, and nothing else is needed.
  bool wants_logits() const {
    return options_.num_logprobs > 0 || !options_.forced_tokens.empty() ||
           options_.sampling.adjusts_logits() || structure_ != nullptr ||
           (end_.output_tokens < options_.min_tokens && !options_.end_tokens.empty());
  }

  const OutputOptions options_;
  const Tokenizer* const tokenizer_;
  ReservationQueue::Cache cache_;
  const std::shared_ptr<ResponseBuffer> responses_;
  const std::function<void(const End&)> on_end_;
  std::shared_ptr<StructuredOutput> structure_;  // null: unconstrained
  std::vector<float> kept_logits_;
  OutputText text_;
  std::optional<ToolCallReader> single_call_;
  TokenCounts counts_;  // if they are penalized
  int32_t last_token_ = 0;
  absl::Time first_token_time_;
  absl::Time last_token_time_;
  bool waits_for_reader_ = false;
  bool ended_ = false;
  End end_;
};

}  // namespace kvship
