// OpenAiResponse formats the output of a request's generations in OpenAI's form: one JSON object,
// or the server-sent events of a stream. One per request; feed each choice in order; not thread
// safe.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "decode_service/http/openai_logprobs.h"
#include "decode_service/http/openai_request.h"
#include "decode_service/http/openai_tool_calls.h"

namespace kvship {

class OpenAiResponse {
 public:
  // Common to all objects of one response.
  struct Heading {
    std::string id;       // without its prefix
    int64_t created = 0;  // seconds since 1970
    std::string model;
    std::string fingerprint;
  };

  // `tokenizer` may be null. `calls` finds the calls of tools in a choice.
  OpenAiResponse(const OpenAiRequest& request, Heading heading, const Tokenizer* tokenizer,
                 const ToolCallReader& calls);

  // For a response in one piece, which is complete when all choices have their reports.
  void Add(size_t choice, const v1::GenerateOutput& output);
  void End(size_t choice, const v1::GenerateReport& report);
  std::string Whole();

  // For a stream: "data: {...}\n\n", or empty if the output has nothing to show yet. The events of
  // the last choice to end finish with "data: [DONE]\n\n".
  std::string Event(size_t choice, const v1::GenerateOutput& output);
  std::string LastEvents(size_t choice, const v1::GenerateReport& report);

 private:
  using Json = nlohmann::ordered_json;

  struct Choice {
    OpenAiToolCalls calls;
    std::optional<OpenAiLogprobs> logprobs = {};
    std::string text = {};  // not returned yet
    OpenAiLogprobs::Tokens tokens = {};
    bool began = false;  // the stream's first chunk was made
    std::optional<v1::GenerateReport> report = {};
  };

  Json Object(absl::string_view kind) const;
  static Json FinishReason(const Choice& choice);
  Json WholeChoice(size_t choice);
  // An object of a stream without its choices; and the choices, with the new calls.
  Json Chunk() const;
  Json ChunkChoices(size_t choice, const std::string& text, Json logprobs, Json finish_reason);
  // The chunk with the text and calls not returned yet; empty if there are none.
  std::string TextEvent(size_t choice, Json logprobs);
  // The usage of all choices.
  Json Usage() const;

  const OpenAiApi api_;
  const bool include_usage_;
  const bool report_;
  const Heading heading_;
  const size_t choices_per_prompt_;
  std::vector<Choice> choices_;
  size_t num_ended_ = 0;
};

// A comment event, which clients skip: keeps proxies awake and shows people the progress.
std::string CommentEvent(const v1::GenerateProgress& progress);
// The error that ends a stream.
std::string ErrorEvent(const absl::Status& status);

// {"object": "list", "data": [...]} and one entry of it.
std::string ModelListJson(const std::string& id, int64_t created, size_t context_tokens);
std::string ModelJson(const std::string& id, int64_t created, size_t context_tokens);

}  // namespace kvship
