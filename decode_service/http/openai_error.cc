#include "decode_service/http/openai_error.h"

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/utf8.h"
#include "decode_service/rejection.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

constexpr char kInvalidRequest[] = "invalid_request_error";
// A model or field name may be as long as the body. gRPC's messages are truncated there, too.
constexpr size_t kMostTextBytes = 1024;

struct FieldName {
  absl::string_view proto;
  absl::string_view json;
};

constexpr FieldName kFieldNames[] = {{"tokens.ids", "prompt"},
                                     {"chat.messages", "messages"},
                                     {"chat.tools", "tools"},
                                     {"chat.forced_call", "tool_choice"},
                                     {"chat.thinking", "chat_template_kwargs.enable_thinking"},
                                     {"chat", "messages"},
                                     {"sampling.logit_bias", "logit_bias"},
                                     {"json_schema", "response_format.json_schema.schema"},
                                     {"compression", "kvship.compression"}};

std::string Short(const std::string& text) {
  if (text.size() <= kMostTextBytes) return text;
  return absl::StrCat(CutUtf8(text, kMostTextBytes), "...");
}

// Converts the path that `text` begins with to the body's names.
std::string InJsonNames(absl::string_view text) {
  for (const FieldName& name : kFieldNames) {
    absl::string_view rest = text;
    if (!absl::ConsumePrefix(&rest, name.proto)) continue;
    if (rest.empty() || absl::StrContains(" .[", rest.substr(0, 1))) {
      return absl::StrCat(name.json, rest);
    }
  }
  return std::string(text);
}

}  // namespace

std::string OpenAiError::Json() const {
  using Json = nlohmann::ordered_json;
  const auto or_null = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  const Json json = {{"error",
                      {{"message", Short(message)},
                       {"type", type},
                       {"param", or_null(Short(param))},
                       {"code", or_null(code)}}}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

OpenAiError InvalidOpenAiRequest(std::string message, int http_status) {
  return {.http_status = http_status, .message = std::move(message), .type = kInvalidRequest};
}

OpenAiError OpenAiErrorOf(const absl::Status& status) {
  OpenAiError error = {.message = std::string(status.message())};
  const std::string reason = ReasonOf(status);
  switch (status.code()) {
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      error = InvalidOpenAiRequest(InJsonNames(status.message()));
      error.param = InJsonNames(FieldOf(status));
      if (reason == kContextLengthExceeded) error.code = "context_length_exceeded";
      break;
    case absl::StatusCode::kResourceExhausted:
      error.http_status = 429;
      error.type = "rate_limit_error";
      error.code = "rate_limit_exceeded";
      error.retry_after = RetryDelayOf(status).value_or(kRetryDelay);
      error.reason = reason;
      break;
    case absl::StatusCode::kUnauthenticated:
      error = InvalidOpenAiRequest(std::string(status.message()), 401);
      error.code = "invalid_api_key";
      break;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:  // the server stops: a lost client reads nothing
      error.http_status = 503;
      error.type = "service_unavailable_error";
      error.retry_after = RetryDelayOf(status).value_or(kRetryDelay);
      break;
    case absl::StatusCode::kDeadlineExceeded:
      error.http_status = 504;
      error.type = "timeout_error";
      break;
    default: break;
  }
  return error;
}

}  // namespace kvship
