#include "decode_service/http/http_body.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <stdexcept>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "decode_service/http/http_errors.h"
#include "service/http_server.h"

namespace kvship {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr size_t kMostBodyBytes = 1000;
constexpr char kHead[] = "POST /echo HTTP/1.1\r\nContent-Type: application/json\r\n";
constexpr char kChunked[] =
    "POST /echo HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

class HttpBodyTest : public ::testing::Test {
 protected:
  HttpBodyTest() {
    server_.Post("/echo", [](const httplib::Request& request, httplib::Response& response,
                             const httplib::ContentReader& reader) {
      std::string body;
      const auto error = ReadHttpBody(request, reader, kMostBodyBytes, &body);
      if (error) HttpServer::connection().CloseAfterAnswer();
      response.status = error ? error->http_status : 200;
      response.set_content(error ? error->message : "got " + body, "text/plain");
    });
    // Makes of the body what there is no memory for, or fails in another way.
    server_.Post("/parse", [](const httplib::Request& request, httplib::Response&,
                              const httplib::ContentReader&) {
      if (request.has_param("wrong")) throw std::logic_error("wrong");
      throw std::bad_alloc();
    });
    AnswerErrors(server_);
  }

  // All that is answered to these bytes and the end of the client's side.
  std::string AnswerTo(const std::string& bytes) {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    std::thread serving([this, &ends] { server_.Serve(ends[1], /*tls=*/nullptr); });
    EXPECT_EQ(send(ends[0], bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
    shutdown(ends[0], SHUT_WR);
    std::string answer;
    char piece[4096];
    for (ssize_t n; (n = recv(ends[0], piece, sizeof(piece), 0)) > 0;) answer.append(piece, n);
    serving.join();
    close(ends[0]);
    return answer;
  }

  HttpServer server_{{.max_connections = 1, .max_body_bytes = kMostBodyBytes}};
};

size_t NumAnswers(const std::string& text) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find("HTTP/1.1 ", at)) != std::string::npos; ++at) ++count;
  return count;
}

TEST_F(HttpBodyTest, WhatFollowsChunksIsNoRequest) {
  const std::string after = absl::StrCat(kHead, "Content-Length: 4\r\n\r\nnext");
  for (const std::string chunks :
       {"2\r\n{}\r\n0\r\n\r\n", "2\r\n{}\r\n0\r\nX-Checksum: 1\r\n\r\n", "x\r\n{}\r\n0\r\n\r\n",
        "\r\n\r\n", "2\n{}\r\n0\r\n\r\n", "2\r\n{}}\r\n0\r\n\r\n", "2\r\n{}0\r\n\r\n"}) {
    EXPECT_LE(NumAnswers(AnswerTo(absl::StrCat(kChunked, chunks, after))), 1u) << chunks;
  }
  EXPECT_THAT(AnswerTo(absl::StrCat(kChunked, "2\r\n{}\r\n0\r\n\r\n")), HasSubstr("got {}"));
  EXPECT_THAT(AnswerTo(absl::StrCat(kChunked, "2\r\n{}\r\n0\r\nX-Checksum: 1\r\n\r\n")),
              AllOf(StartsWith("HTTP/1.1 400 "), HasSubstr("or has trailers")));
}

TEST_F(HttpBodyTest, WhatFollowsABodyWhoseEndIsNotKnownIsNoRequest) {
  const std::string after = absl::StrCat(kHead, "Content-Length: 4\r\n\r\nnext");
  // httplib does not see a line that ends in LF alone.
  for (const std::string rest :
       {"\r\n", "Content-Length: 105\n\r\n", "Transfer-Encoding: chunked\n\r\n"}) {
    const std::string answer = AnswerTo(absl::StrCat(kHead, rest, after));
    EXPECT_THAT(answer, AllOf(StartsWith("HTTP/1.1 400 "), HasSubstr("do not say where the body")));
    EXPECT_EQ(NumAnswers(answer), 1u) << rest;
  }
}

TEST_F(HttpBodyTest, AConnectionEndsWhereAnyOfItsOptionsIsClose) {
  const auto twice = [this](const std::string& connection) {
    const std::string request = absl::StrCat(kHead, connection, "Content-Length: 2\r\n\r\n{}");
    return AnswerTo(request + request);
  };
  for (const std::string connection :
       {"Connection: close\r\n", "Connection: Close\r\n", "Connection: close, TE\r\n",
        "Connection: TE ,CLOSE\r\n", "Connection: TE\r\nConnection: close\r\n"}) {
    const std::string answer = twice(connection);
    EXPECT_EQ(NumAnswers(answer), 1u) << connection;
    EXPECT_THAT(answer, HasSubstr("Connection: close\r\n"));
  }
  for (const std::string connection : {"", "Connection: keep-alive, TE\r\n"}) {
    EXPECT_EQ(NumAnswers(twice(connection)), 2u) << connection;
  }
}

TEST_F(HttpBodyTest, AnswersHaveNoCoding) {
  for (const std::string codings : {"br;q=0", "gzip", "gzip;q=0, deflate, br"}) {
    EXPECT_THAT(AnswerTo(absl::StrCat(kHead, "Accept-Encoding: ", codings,
                                      "\r\nContent-Length: 2\r\n\r\n{}")),
                AllOf(HasSubstr("got {}"), Not(HasSubstr("Content-Encoding"))));
  }
}

TEST_F(HttpBodyTest, NoBodyIsLongerThanAllowed) {
  for (const std::string& body :
       {absl::StrCat(kHead, "Content-Length: 1001\r\n\r\n", std::string(1001, 'x')),
        absl::StrCat(kHead, "Content-Length: 18446744073709551615\r\n\r\nx"),
        absl::StrCat(kChunked, "3E9\r\n", std::string(1001, 'x'), "\r\n0\r\n\r\n")}) {
    EXPECT_THAT(AnswerTo(body),
                AllOf(StartsWith("HTTP/1.1 413 "), HasSubstr("wanted at most 1000 bytes")));
  }
  EXPECT_THAT(AnswerTo(absl::StrCat(kChunked, "3E8\r\n", std::string(1000, 'x'), "\r\n0\r\n\r\n")),
              StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpBodyTest, ABodyThatEndsEarlyIsNotTaken) {
  for (const std::string rest :
       {"Content-Length: 5\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\n{}",
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"}) {
    EXPECT_THAT(AnswerTo(absl::StrCat(kHead, rest)), HasSubstr("the body did not arrive whole"))
        << rest;
  }
}

TEST_F(HttpBodyTest, EncodedBodiesAreRefusedByTheirEncoding) {
  for (const std::string coding : {"gzip", "deflate", "br", "zstd", "identity, gzip"}) {
    EXPECT_THAT(AnswerTo(absl::StrCat(kHead, "Content-Encoding: ", coding,
                                      "\r\nContent-Length: 2\r\n\r\n{}")),
                AllOf(StartsWith("HTTP/1.1 415 "),
                      HasSubstr("Content-Encoding is '" + coding + "'; wanted it left out")));
  }
  EXPECT_THAT(AnswerTo(absl::StrCat(kHead, "Content-Encoding: identity\r\nContent-Encoding: br\r\n",
                                    "Content-Length: 2\r\n\r\n{}")),
              HasSubstr("Content-Encoding is 'br'"));
  EXPECT_THAT(AnswerTo(absl::StrCat(kHead, "Content-Encoding: identity\r\n",
                                    "Content-Length: 2\r\n\r\n{}")),
              HasSubstr("got {}"));
}

TEST_F(HttpBodyTest, BoundsOfWhatStandsBeforeTheBodyAreNamed) {
  const auto with_url = [](size_t num_bytes) {
    return absl::StrCat("GET /", std::string(num_bytes, 'a'), " HTTP/1.1\r\n\r\n");
  };
  for (const size_t num_bytes : {9000, 60'000, 100'000}) {
    EXPECT_THAT(
        AnswerTo(with_url(num_bytes)),
        AllOf(StartsWith("HTTP/1.1 414 "), HasSubstr("the URL, is too long; wanted at most 8192")))
        << num_bytes;
  }
  std::string headers;
  for (int i = 0; i < 20; ++i) headers += "X-Filler: " + std::string(4000, 'a') + "\r\n";
  EXPECT_THAT(AnswerTo("GET / HTTP/1.1\r\n" + headers),
              AllOf(StartsWith("HTTP/1.1 431 "), HasSubstr("wanted at most 65536 bytes together")));
  EXPECT_THAT(AnswerTo("GET / HTTP/1.1\r\nX: " + std::string(9000, 'a') + "\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 400 "), HasSubstr("headers of at most 8192 bytes each")));
}

TEST_F(HttpBodyTest, ABodyThatMemoryDoesNotHoldIsRefusedWithASentence) {
  const auto answer_to = [this](const std::string& path) {
    return AnswerTo(absl::StrCat("POST ", path, " HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"));
  };
  EXPECT_THAT(answer_to("/parse"),
              AllOf(StartsWith("HTTP/1.1 429 "), HasSubstr("no memory left"),
                    HasSubstr("\r\nRetry-After: "), HasSubstr("\r\nConnection: close\r\n")));
  EXPECT_THAT(answer_to("/parse?wrong=1"),
              AllOf(StartsWith("HTTP/1.1 500 "), HasSubstr("the request failed in the server"),
                    Not(HasSubstr("EXCEPTION_WHAT"))));
}

TEST_F(HttpBodyTest, NobodyLooksAtARange) {
  for (const std::string range : {"Range: bytes=9-1", "RANGE:bytes=0-0", "range: :bytes=0-0",
                                  "Range: bytes=0-0\r\nRange: x"}) {
    const std::string head = absl::StrCat(kHead, range, "\r\nContent-Length: 11\r\n\r\n");
    const std::string answer = AnswerTo(absl::StrCat(head, "{}\nRange: 1"));
    EXPECT_THAT(answer, AllOf(StartsWith("HTTP/1.1 200 "), HasSubstr("got {}\nRange: 1")));
    EXPECT_THAT(answer, Not(HasSubstr("Content-Range")));
  }
}

}  // namespace
}  // namespace kvship
