// OpenAiLogprobs formats the log probabilities of output tokens in the two forms of OpenAI's API.
// One per request; Add its tokens in order, because completions count text offsets. Not thread
// safe.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "decode_service/http/openai_request.h"
#include "engine/tokenizer.h"

namespace kvship {

class OpenAiLogprobs {
 public:
  using Tokens = google::protobuf::RepeatedPtrField<v1::OutputToken>;

  // Shows the `num_top` most likely tokens at each place. `tokenizer` may be null: tokens are then
  // shown as "token_id:17".
  OpenAiLogprobs(OpenAiApi api, uint32_t num_top, const Tokenizer* tokenizer)
      : api_(api), num_top_(num_top), tokenizer_(tokenizer) {}

  // Chat: {"content": [{"token", "logprob", "bytes", "top_logprobs"}, ...], "refusal": null}.
  // Completions: {"tokens", "token_logprobs", "top_logprobs", "text_offset"}, where bytes that are
  // not whole UTF-8 show as "bytes:\xe2\x80", and "top_logprobs" has the drawn token too. Special
  // tokens give no text and have no entry.
  nlohmann::ordered_json Add(const Tokens& tokens);

 private:
  bool IsShown(uint32_t id) const;
  std::string BytesOf(uint32_t id) const;
  nlohmann::ordered_json ChatEntry(uint32_t id, float logprob) const;
  std::string CompletionToken(uint32_t id) const;

  // The place in the text of the next token, in characters.
  size_t TakeOffset(absl::string_view bytes);

  const OpenAiApi api_;
  const uint32_t num_top_;
  const Tokenizer* const tokenizer_;
  size_t num_characters_ = 0;  // of the tokens so far
  std::string unfinished_;     // bytes of a character that has begun
};

}  // namespace kvship
