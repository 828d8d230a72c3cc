// EventStream answers a request with "stream": true: it turns the output of its generations into
// server-sent events. Comment events keep proxies from closing a silent connection. Used only by
// the connection's thread.
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
  // `progress`: send a comment every second that reports the prompt's progress.
  EventStream(std::unique_ptr<HttpChoices> choices, OpenAiResponse response, bool progress);

  // Waits briefly for the first event, so that an early error can be returned as the HTTP status.
  // Call it first.
  absl::Status Begin();

  // Writes the next event, and marks the end. False if the client accepts no more.
  bool WriteNext(httplib::DataSink& sink);

 private:
  std::string Event(const HttpChoices::Message& message);

  const std::unique_ptr<HttpChoices> choices_;
  OpenAiResponse response_;
  const absl::Duration comment_interval_;
  std::optional<HttpChoices::Message> first_;  // received by Begin
  v1::GenerateProgress progress_;
  absl::Time last_write_;
};

}  // namespace kvship
