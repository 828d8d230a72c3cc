// OpenAiResponse puts what a generation gives into the form of OpenAI's API: one JSON object, or
// the server-sent events of a stream. One per request, fed in order; not thread safe.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "decode_service/http/openai_logprobs.h"
#include "decode_service/http/openai_request.h"

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

  // `tokenizer` may be null.
  OpenAiResponse(const OpenAiRequest& request, Heading heading, const Tokenizer* tokenizer);

  // Of an answer in one piece.
  void Add(const v1::GenerateOutput& output);
  std::string Whole(const v1::GenerateReport& report);

  // Of a stream: "data: {...}\n\n", or nothing where the output has nothing to show yet. The last
  // ones end with "data: [DONE]\n\n".
  std::string Event(const v1::GenerateOutput& output);
  std::string LastEvents(const v1::GenerateReport& report);

 private:
  using Json = nlohmann::ordered_json;

  Json Object(absl::string_view kind) const;
  // An object of a stream, but for its choices; and those.
  Json Chunk() const;
  Json ChunkChoices(const std::string& text, Json logprobs, Json finish_reason);
  // Null where none are wanted.
  Json Logprobs(const OpenAiLogprobs::Tokens& tokens);

  const OpenAiApi api_;
  const bool include_usage_;
  const bool report_;
  const Heading heading_;
  std::optional<OpenAiLogprobs> logprobs_;
  std::string text_;
  OpenAiLogprobs::Tokens tokens_;
  bool began_ = false;  // a stream's first chunk was made
};

// A comment of a stream, which clients skip: keeps proxies awake and shows people what goes on.
std::string CommentEvent(const v1::GenerateProgress& progress);
// The error that ends a stream.
std::string ErrorEvent(const absl::Status& status);

// {"object": "list", "data": [...]} and one entry of it.
std::string ModelListJson(const std::string& id, int64_t created, size_t context_tokens);
std::string ModelJson(const std::string& id, int64_t created, size_t context_tokens);

}  // namespace kvship
