#include "decode_service/http/http_body.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace kvship {
namespace {

constexpr char kJson[] = "application/json";
// As of a header's.
constexpr size_t kMostLineBytes = CPPHTTPLIB_HEADER_MAX_LENGTH;

// What httplib does not check, and proxies may read in another way than it does.
bool BodyIsDelimited(const httplib::Request& request) {
  const size_t num_lengths = request.get_header_value_count("Content-Length");
  const size_t num_encodings = request.get_header_value_count("Transfer-Encoding");
  uint64_t length = 0;
  if (num_encodings > 0) {
    return num_lengths == 0 && num_encodings == 1 &&
           absl::EqualsIgnoreCase(request.get_header_value("Transfer-Encoding"), "chunked");
  }
  return num_lengths == 0 ||
         (num_lengths == 1 &&
          absl::SimpleAtoi(request.get_header_value("Content-Length"), &length));
}

bool IsJson(absl::string_view content_type) {
  const absl::string_view type = content_type.substr(0, content_type.find(';'));
  return absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(type), kJson);
}

// The first coding of the body that is one; empty if there is none.
std::string ContentEncoding(const httplib::Request& request) {
  for (size_t i = 0; i < request.get_header_value_count("Content-Encoding"); ++i) {
    std::string coding = request.get_header_value("Content-Encoding", i);
    if (!coding.empty() && !absl::EqualsIgnoreCase(coding, "identity")) return coding;
  }
  return "";
}

// The size that a chunk's first line tells: hexadecimal digits, then extensions, which mean nothing
// here.
std::optional<uint64_t> ChunkBytes(absl::string_view line) {
  const absl::string_view digits =
      absl::StripTrailingAsciiWhitespace(line.substr(0, line.find(';')));
  uint64_t num_bytes = 0;
  const bool are_digits =
      std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isxdigit(c); });
  if (digits.size() > 16 || !are_digits || !absl::SimpleHexAtoi(digits, &num_bytes)) {
    return std::nullopt;
  }
  return num_bytes;
}

// Reads one body from a connection. Not httplib's reader, which takes no trailers and is lenient
// with chunks: what follows them could pass for a request.
class BodyReader {
 public:
  BodyReader(HttpConnection& connection, size_t max_body_bytes, std::string* body)
      : connection_(connection), max_body_bytes_(max_body_bytes), body_(*body) {}

  std::optional<OpenAiError> Read(uint64_t num_bytes) {
    // Not `body size + num_bytes`, which may be too much for 64 bits.
    if (num_bytes > max_body_bytes_ - body_.size()) return TooLong();
    std::array<char, 16 << 10> piece;
    while (num_bytes > 0) {
      const ssize_t n = connection_.read(piece.data(), std::min<uint64_t>(num_bytes, piece.size()));
      if (n <= 0) return Cut();
      body_.append(piece.data(), n);
      num_bytes -= n;
    }
    return std::nullopt;
  }

  // RFC 9112, section 7.1.
  std::optional<OpenAiError> ReadChunks() {
    std::string line;
    while (true) {
      if (auto error = ReadLine(&line)) return error;
      const std::optional<uint64_t> num_bytes = ChunkBytes(line);
      if (!num_bytes) return BadChunk("a chunk's size in hexadecimal");
      if (*num_bytes == 0) break;
      if (auto error = Read(*num_bytes)) return error;
      if (auto error = ReadLine(&line)) return error;
      if (!line.empty()) return BadChunk("a line end after a chunk");
    }
    do {  // trailers, which mean nothing here
      if (auto error = ReadLine(&line)) return error;
    } while (!line.empty());
    return std::nullopt;
  }

 private:
  // Without the line end.
  std::optional<OpenAiError> ReadLine(std::string* line) {
    line->clear();
    char byte = 0;
    while (line->size() <= kMostLineBytes) {
      if (connection_.read(&byte, 1) <= 0) return Cut();
      if (byte != '\n') {
        line->push_back(byte);
      } else if (!line->empty() && line->back() == '\r') {
        line->pop_back();
        return std::nullopt;
      } else {
        break;
      }
    }
    return BadChunk(absl::StrCat("lines of at most ", kMostLineBytes, " bytes that end with CRLF"));
  }

  OpenAiError TooLong() const {
    return InvalidOpenAiRequest(
        absl::StrCat("the body is too long; wanted at most ", max_body_bytes_, " bytes"), 413);
  }

  OpenAiError Cut() const {
    // What marks the chunks has its bound too.
    if (connection_.has_read_all_allowed()) return TooLong();
    return InvalidOpenAiRequest("the body did not arrive whole");
  }

  OpenAiError BadChunk(absl::string_view wanted) const {
    return InvalidOpenAiRequest(
        absl::StrCat("the body is not in chunks as Transfer-Encoding says: after ", body_.size(),
                     " bytes of it something else comes; wanted ", wanted));
  }

  HttpConnection& connection_;
  const size_t max_body_bytes_;
  std::string& body_;
};

}  // namespace

bool HasHttpBody(const httplib::Request& request) {
  return request.has_header("Transfer-Encoding") || request.has_header("Content-Length");
}

std::optional<OpenAiError> ReadHttpBody(const httplib::Request& request, HttpConnection& connection,
                                        size_t max_body_bytes, std::string* body) {
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
  BodyReader reader(connection, max_body_bytes, body);
  if (request.has_header("Transfer-Encoding")) return reader.ReadChunks();
  return reader.Read(request.get_header_value<uint64_t>("Content-Length"));
}

}  // namespace kvship
