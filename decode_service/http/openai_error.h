// Errors in the form of OpenAI's API: {"error": {"message", "type", "param", "code"}} and an HTTP
// status. Pure functions.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kvship {

struct OpenAiError {
  int http_status = 500;
  std::string message;
  std::string type = "server_error";
  std::string param = {};  // the field's name; empty: null
  std::string code = {};   // empty: null
  // When the same request may be sent again, where that makes sense.
  std::optional<absl::Duration> retry_after = {};

  std::string Json() const;
};

// The error of a request that ended with `status`. Names of kvship.v1's fields become those of the
// body's.
OpenAiError OpenAiErrorOf(const absl::Status& status);

// An error that is the client's own: 400 by default, or 401, 404, 405, 413, 414, 415, 431.
OpenAiError InvalidOpenAiRequest(std::string message, int http_status = 400);

}  // namespace kvship
