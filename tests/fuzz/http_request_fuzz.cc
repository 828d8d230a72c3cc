// All that a client sends on one HTTP connection.
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "absl/strings/match.h"
#include "decode_service/http/http_body.h"
#include "decode_service/http/http_errors.h"
#include "service/http_server.h"
#include "tests/fuzz/require.h"

namespace kvship {
namespace {

constexpr size_t kMostBodyBytes = 1000;
// All answers to the longest input.
constexpr int kAnswerBytes = 4 << 20;

// Answers one path as HttpService answers the generating endpoints.
HttpServer& Server() {
  static HttpServer& server = *[] {
    auto* made = new HttpServer({.max_connections = 1, .max_body_bytes = kMostBodyBytes});
    AnswerErrors(*made);
    made->Post("/v1/completions", [](const httplib::Request& request, httplib::Response& response,
                                     const httplib::ContentReader& reader) {
      std::string body;
      const auto error = ReadHttpBody(request, reader, kMostBodyBytes, &body);
      Require(body.size() <= kMostBodyBytes, "no body is longer than allowed");
      if (error) HttpServer::connection().CloseAfterAnswer();
      response.status = error ? error->http_status : 200;
      response.set_content(error ? error->Json() : body, "application/json");
    });
    return made;
  }();
  return server;
}

}  // namespace
}  // namespace kvship

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  using namespace kvship;
  int ends[2];
  Require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "there are sockets");
  for (const int end : ends) {
    setsockopt(end, SOL_SOCKET, SO_SNDBUFFORCE, &kAnswerBytes, sizeof(kAnswerBytes));
  }
  const auto [client, server] = ends;
  Require(send(client, data, num_bytes, 0) == static_cast<ssize_t>(num_bytes),
          "the input is short enough for a socket");
  shutdown(client, SHUT_WR);
  Server().Serve(server, /*tls=*/nullptr);
  char answer[16] = {};
  const ssize_t received = recv(client, answer, sizeof(answer), MSG_WAITALL | MSG_DONTWAIT);
  Require(received < static_cast<ssize_t>(sizeof(answer)) ||
              absl::StartsWith(absl::string_view(answer, sizeof(answer)), "HTTP/1."),
          "an answer is an HTTP answer");
  close(client);
  return 0;
}
