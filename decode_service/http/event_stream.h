// EventStream is the answer to a request with "stream": true: it turns what its generations give
// into server-sent events. Comments among them keep proxies from closing a connection that is
// silent. Used by the connection's thread alone.
#pragma once

#include <httplib.h>

#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "decode_service/http/http_choices.h"
#include "decode_service/http/openai_response.h"

namespace kvship {

class EventStream {
 public:
  // `progress`: comments tell every second how far the prompt is.
  EventStream(std::unique_ptr<HttpChoices> choices, OpenAiResponse response, bool progress);

  // Waits a moment for how the request begins: an error that comes so soon can be told by the HTTP
  // status. Call it first.
  absl::Status Begin();

  // Writes what comes next, and says so when that was the end. False if the client takes no more.
  bool WriteNext(httplib::DataSink& sink);

 private:
  std::string Event(const HttpChoices::Message& message);

  const std::unique_ptr<HttpChoices> choices_;
  OpenAiResponse response_;
  const absl::Duration comment_interval_;
  std::optional<HttpChoices::Message> first_;  // came while it began
  v1::GenerateProgress progress_;
  absl::Time last_write_;
};

}  // namespace kvship
