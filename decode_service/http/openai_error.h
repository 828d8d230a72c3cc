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
  // When to retry the same request, if that makes sense.
  std::optional<absl::Duration> retry_after = {};
  std::string reason = {};  // of a 429, as in rejection.h; not told

  std::string Json() const;
};

// Converts the status that a request ended with. Replaces names of kvship.v1's fields by those of
// the body.
OpenAiError OpenAiErrorOf(const absl::Status& status);

// Makes a client error: 400 by default, or 401, 404, 405, 413, 414, 415, 431.
OpenAiError InvalidOpenAiRequest(std::string message, int http_status = 400);

}  // namespace kvship
