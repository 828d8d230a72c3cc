#include "decode_service/http/http_errors.h"

#include <algorithm>
#include <exception>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"

namespace kvship {
namespace {

constexpr int kUrlTooLong = 414;
constexpr int kHeadersTooLong = 431;

// The problem of a request that httplib itself answered with `http_status`.
OpenAiError UnreadableHttpRequest(int http_status) {
  if (http_status == kUrlTooLong) {
    return InvalidOpenAiRequest(
        absl::StrCat("the request's line, with the URL, is too long; wanted at most ",
                     CPPHTTPLIB_REQUEST_URI_MAX_LENGTH, " bytes"),
        http_status);
  }
  if (HttpServer::connection().has_read_all_allowed()) {
    return InvalidOpenAiRequest(
        absl::StrCat("the request's headers are too long; wanted at most ",
                     HttpServer::Limits().max_header_bytes, " bytes together"),
        kHeadersTooLong);
  }
  return InvalidOpenAiRequest(
      absl::StrCat("the HTTP request cannot be read; wanted a line METHOD URL HTTP/1.1, and "
                   "headers of at most ",
                   CPPHTTPLIB_HEADER_MAX_LENGTH, " bytes each"),
      http_status);
}

absl::Status StatusOf(const std::exception_ptr& thrown) {
  try {
    return UnlessOutOfMemory([&]() -> absl::Status { std::rethrow_exception(thrown); });
  } catch (...) {
    return absl::InternalError("the request failed in the server, which goes on");
  }
}

}  // namespace

void Respond(const OpenAiError& error, httplib::Response& response) {
  response.status = error.http_status;
  response.set_content(error.Json(), "application/json");
  if (error.retry_after) {
    const int64_t seconds = absl::ToInt64Seconds(absl::Ceil(*error.retry_after, absl::Seconds(1)));
    response.set_header("Retry-After", absl::StrCat(std::max<int64_t>(1, seconds)));
  }
  if (error.http_status == 401) response.set_header("WWW-Authenticate", "Bearer");
}

void RespondAndClose(const OpenAiError& error, httplib::Response& response) {
  HttpServer::connection().CloseAfterAnswer();
  Respond(error, response);
}

void AnswerErrors(HttpServer& server) {
  // Errors that httplib itself detects have no body yet.
  server.set_error_handler([](const httplib::Request&, httplib::Response& response) {
    if (!response.body.empty()) return;
    RespondAndClose(UnreadableHttpRequest(response.status), response);
  });
  server.set_exception_handler(
      [](const httplib::Request&, httplib::Response& response, const std::exception_ptr& thrown) {
        RespondAndClose(OpenAiErrorOf(StatusOf(thrown)), response);
      });
}

}  // namespace kvship
