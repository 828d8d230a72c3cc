#include "decode_service/http/http_body.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "service/http_server.h"

namespace kvship {
namespace {

constexpr char kJson[] = "application/json";

// httplib does not check this, and proxies may parse it differently: it skips a header line that
// ends in a bare LF, which may be the one that delimits the body.
bool BodyIsDelimited(const httplib::Request& request) {
  const size_t num_lengths = request.get_header_value_count("Content-Length");
  const size_t num_encodings = request.get_header_value_count("Transfer-Encoding");
  uint64_t length = 0;
  if (num_encodings > 0) {
    return num_lengths == 0 && num_encodings == 1 &&
           absl::EqualsIgnoreCase(request.get_header_value("Transfer-Encoding"), "chunked");
  }
  return num_lengths == 1 && absl::SimpleAtoi(request.get_header_value("Content-Length"), &length);
}

bool IsJson(absl::string_view content_type) {
  const absl::string_view type = content_type.substr(0, content_type.find(';'));
  return absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(type), kJson);
}

// The first content coding other than identity; empty if there is none.
std::string ContentEncoding(const httplib::Request& request) {
  for (size_t i = 0; i < request.get_header_value_count("Content-Encoding"); ++i) {
    std::string coding = request.get_header_value("Content-Encoding", i);
    if (!coding.empty() && !absl::EqualsIgnoreCase(coding, "identity")) return coding;
  }
  return "";
}

}  // namespace

bool HasHttpBody(const httplib::Request& request) {
  return request.has_header("Transfer-Encoding") || request.has_header("Content-Length");
}

std::optional<OpenAiError> ReadHttpBody(const httplib::Request& request,
                                        const httplib::ContentReader& reader, size_t max_body_bytes,
                                        std::string* body) {
  const std::string type = request.get_header_value("Content-Type");
  if (!IsJson(type)) {
    return InvalidOpenAiRequest(absl::StrCat("Content-Type is '", type, "'; wanted ", kJson), 415);
  }
  if (const std::string coding = ContentEncoding(request); !coding.empty()) {
    return InvalidOpenAiRequest(absl::StrCat("Content-Encoding is '", coding,
                                             "'; wanted it left out: bodies are taken as they are"),
                                415);
  }
  if (!BodyIsDelimited(request)) {
    return InvalidOpenAiRequest(
        "the headers do not say where the body ends; wanted one Content-Length, or "
        "Transfer-Encoding: chunked");
  }
  // httplib parses chunks leniently: bytes after them must not be taken for a request.
  if (request.has_header("Transfer-Encoding")) HttpServer::connection().CloseAfterAnswer();
  bool too_long = request.get_header_value<uint64_t>("Content-Length") > max_body_bytes;
  const bool read = !too_long && reader([&](const char* bytes, size_t num_bytes) {
    too_long = body->size() + num_bytes > max_body_bytes;
    if (!too_long) body->append(bytes, num_bytes);
    return !too_long;
  });
  if (too_long) {
    return InvalidOpenAiRequest(
        absl::StrCat("the body is too long; wanted at most ", max_body_bytes, " bytes"), 413);
  }
  if (!read) {
    return InvalidOpenAiRequest(
        "the body did not arrive whole, or has trailers, which are not taken");
  }
  return std::nullopt;
}

}  // namespace kvship
