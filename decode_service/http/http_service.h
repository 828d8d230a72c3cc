// HttpService serves the public API in OpenAI's form, for existing clients of it. Each request runs
// as Generations, like those of GenerationService, for which its connection's thread waits.
// docs/openai.md documents it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "decode_service/client_requests.h"
#include "decode_service/generation.h"
#include "decode_service/http/openai_error.h"
#include "decode_service/http/openai_request.h"
#include "decode_service/http/parse_turns.h"
#include "decode_service/running_generations.h"
#include "service/callers.h"
#include "service/http_server.h"
#include "service/port_security.h"
#include "service/readiness.h"

namespace kvship {

class HttpService {
 public:
  struct Options {
    std::string listen = "127.0.0.1:8000";  // empty: none
    size_t max_body_bytes = 16 << 20;
    // Concurrent requests; more are refused.
    size_t max_requests = 256;
    // Limit for one request, from its body's last byte to the last byte of the response.
    absl::Duration deadline = absl::Minutes(10);
    // The model's name in the API; empty: its own name.
    std::string served_model_name = {};
  };

  // Listens and serves. Only tokens identify clients. If `security` is insecure, requests to a
  // loopback port without tokens may name any host: a proxy is in front. Borrows callers and
  // readiness. Errors: as HttpServer::Listen and ServerTlsContexts.
  static absl::StatusOr<std::unique_ptr<HttpService>> Start(const Generation::Uses& uses,
                                                            const Callers& callers,
                                                            const Readiness& readiness,
                                                            const PortSecurity& security,
                                                            const Options& options);
  // As Stop, without grace.
  ~HttpService();

  int port() const { return server_.port(); }

  // As RunningGenerations; connections close after their current request.
  void StartDraining();
  bool WaitUntilIdle(absl::Duration timeout) { return running_.WaitUntilIdle(timeout); }
  void EndAll(const absl::Status& why);
  // Ends requests in progress; clients have `grace` to read the end.
  void Stop(absl::Duration grace);

 private:
  HttpService(const Generation::Uses& uses, const Callers& callers, const Readiness& readiness,
              bool any_host, const Options& options, TlsContexts tls);

  // What a request takes before its body is read.
  struct Places {
    ClientRequests::Place of_client;  // its first choice's
    RunningGenerations::Place of_port;
  };

  // Answers every request but POSTs, with one Host header, to the generating endpoints.
  httplib::Server::HandlerResponse Route(const httplib::Request& request,
                                         httplib::Response& response) const;
  void AnswerHealth(httplib::Response& response) const;
  void AnswerModels(absl::string_view path, httplib::Response& response) const;
  void Answer(OpenAiApi api, const httplib::Request& request, httplib::Response& response,
              const httplib::ContentReader& reader);
  // Reads a body when its turn has come. Errors: as ReadOpenAiRequest and ParseTurns::Wait.
  absl::StatusOr<OpenAiRequest> Parse(OpenAiApi api, const std::string& body, absl::Time deadline);
  // Ends a generating request that failed before it started: counts it as `code`, logs and answers
  // it.
  void Refuse(const OpenAiError& error, absl::StatusCode code, const httplib::Request& request,
              const std::string& client, httplib::Response& response) const;
  // `request` is the parsed body of `http`.
  void Generate(const httplib::Request& http, const OpenAiRequest& request,
                const std::string& client, absl::Time arrival, Places places,
                httplib::Response& response);
  // Returns the client's name; Unauthenticated if it is unknown and required.
  absl::StatusOr<std::string> ClientOf(const httplib::Request& request) const;
  bool Serves(absl::string_view model) const;

  const Generation::Uses uses_;
  const Callers& callers_;
  const Readiness& readiness_;
  const Options options_;
  const std::string identity_;  // of the model, in hexadecimal
  const std::string model_;     // the model's name here
  const int64_t start_time_;    // seconds since 1970
  const size_t context_tokens_;
  // A page in a browser may have this machine's address under its own name (DNS rebinding), and
  // would be let in from outside.
  const bool this_machine_alone_;

  RunningGenerations running_;  // entered before their bodies are read
  ParseTurns parse_turns_;

  HttpServer server_;
};

}  // namespace kvship
