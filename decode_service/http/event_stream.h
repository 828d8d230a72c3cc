// EventStream is the answer to a request with "stream": true: it turns what a generation gives into
// server-sent events, and fills the waiting for the first token with comments, so that proxies keep
// the connection. Used by the connection's thread alone.
#pragma once

#include <httplib.h>

#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "decode_service/http/http_generation.h"
#include "decode_service/http/openai_response.h"

namespace kvship {

class EventStream {
 public:
  EventStream(std::unique_ptr<HttpGeneration> generation, OpenAiResponse response)
      : generation_(std::move(generation)), response_(std::move(response)) {}

  // Waits a moment for how the request begins: an error that comes so soon can be told by the HTTP
  // status. Call it first.
  absl::Status Begin();

  // Writes what comes next, and says so when that was the end. False if the client takes no more.
  bool WriteNext(httplib::DataSink& sink);

 private:
  std::string Event(const v1::GenerateResponse& message);

  const std::unique_ptr<HttpGeneration> generation_;
  OpenAiResponse response_;
  std::optional<v1::GenerateResponse> first_;  // came while it began
  v1::GenerateProgress progress_;
  absl::Time last_write_ = absl::InfinitePast();
};

}  // namespace kvship
