// OpenAiResponse puts what the generations of a request give into the form of OpenAI's API: one
// JSON object, or the server-sent events of a stream. One per request; each choice is fed in order;
// not thread safe.
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
  // What all objects of one answer have in common.
  struct Heading {
    std::string id;       // without its prefix
    int64_t created = 0;  // seconds since 1970
    std::string model;
    std::string fingerprint;
  };

  // `tokenizer` may be null. `calls` finds the calls of tools in a choice.
  OpenAiResponse(const OpenAiRequest& request, Heading heading, const Tokenizer* tokenizer,
                 const ToolCallReader& calls);

  // Of an answer in one piece, which is whole when all choices have their reports.
  void Add(size_t choice, const v1::GenerateOutput& output);
  void End(size_t choice, const v1::GenerateReport& report);
  std::string Whole();

  // Of a stream: "data: {...}\n\n", or nothing where the output has nothing to show yet. Those of
  // the last choice to end end with "data: [DONE]\n\n".
  std::string Event(size_t choice, const v1::GenerateOutput& output);
  std::string LastEvents(size_t choice, const v1::GenerateReport& report);

 private:
  using Json = nlohmann::ordered_json;

  struct Choice {
    OpenAiToolCalls calls;
    std::optional<OpenAiLogprobs> logprobs = {};
    std::string text = {};  // that was not given yet
    OpenAiLogprobs::Tokens tokens = {};
    bool began = false;  // a stream's first chunk was made
    std::optional<v1::GenerateReport> report = {};
  };

  Json Object(absl::string_view kind) const;
  static Json FinishReason(const Choice& choice);
  Json WholeChoice(size_t choice);
  // An object of a stream, but for its choices; and those, with the calls that are new.
  Json Chunk() const;
  Json ChunkChoices(size_t choice, const std::string& text, Json logprobs, Json finish_reason);
  // The chunk with the text and calls that were not given yet; empty where there are none.
  std::string TextEvent(size_t choice, Json logprobs);
  // Of all choices.
  Json Usage() const;

  const OpenAiApi api_;
  const bool include_usage_;
  const bool report_;
  const Heading heading_;
  const size_t choices_per_prompt_;
  std::vector<Choice> choices_;
  size_t num_ended_ = 0;
};

// A comment of a stream, which clients skip: keeps proxies awake and shows people what goes on.
std::string CommentEvent(const v1::GenerateProgress& progress);
// The error that ends a stream.
std::string ErrorEvent(const absl::Status& status);

// {"object": "list", "data": [...]} and one entry of it.
std::string ModelListJson(const std::string& id, int64_t created, size_t context_tokens);
std::string ModelJson(const std::string& id, int64_t created, size_t context_tokens);

}  // namespace kvship
