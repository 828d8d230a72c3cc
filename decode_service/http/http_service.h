// HttpService is the public API in the form of OpenAI's, for clients that speak it already. Each
// request is a Generation like those of GenerationService. docs/openai.md says what it takes.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "decode_service/generation.h"
#include "decode_service/http/http_server.h"
#include "decode_service/http/openai_error.h"
#include "decode_service/http/openai_request.h"
#include "decode_service/running_generations.h"
#include "service/callers.h"
#include "service/readiness.h"

namespace kvship {

class HttpService {
 public:
  struct Options {
    std::string listen = "127.0.0.1:8000";  // empty: none
    size_t max_body_bytes = 16 << 20;
    // Requests at a time; more are refused.
    size_t max_requests = 256;
    // For one request, from its body's last byte to the last byte of the answer.
    absl::Duration deadline = absl::Minutes(10);
    // What the API calls the model; empty: by its own name.
    std::string served_model_name = {};
    TlsFiles tls = {};  // without a certificate: plain text. Clients are known by tokens alone
  };

  // Listens and serves. Borrows callers and readiness. Errors: as HttpServer::Listen and
  // ServerTlsContext.
  static absl::StatusOr<std::unique_ptr<HttpService>> Start(const Generation::Uses& uses,
                                                            const Callers& callers,
                                                            const Readiness& readiness,
                                                            const Options& options);
  // As Stop, at once.
  ~HttpService();

  int port() const { return server_.port(); }

  // As RunningGenerations; connections end with their present request.
  void StartDraining();
  bool WaitUntilIdle(absl::Duration timeout) { return running_.WaitUntilIdle(timeout); }
  void EndAll(const absl::Status& why) { running_.EndAll(why); }
  // Ends what is still running; clients have `grace` to read its end.
  void Stop(absl::Duration grace);

 private:
  HttpService(const Generation::Uses& uses, const Callers& callers, const Readiness& readiness,
              const Options& options, std::unique_ptr<WatchedTlsContext> tls);

  // Answers all but the generating endpoints' own requests.
  httplib::Server::HandlerResponse Route(const httplib::Request& request,
                                         httplib::Response& response) const;
  void AnswerHealth(httplib::Response& response) const;
  void AnswerModels(absl::string_view path, httplib::Response& response) const;
  void Answer(OpenAiApi api, const httplib::Request& request, httplib::Response& response,
              const httplib::ContentReader& reader);
  // Ends a request to generate that never became one: counted, logged and answered.
  void Refuse(const OpenAiError& error, const httplib::Request& request, const std::string& client,
              httplib::Response& response) const;
  // `request` is what `http` asks for.
  void Generate(const httplib::Request& http, const OpenAiRequest& request,
                const std::string& client, RunningGenerations::Place place,
                httplib::Response& response);
  // The name of who sends it; Unauthenticated if that is not known and has to be.
  absl::StatusOr<std::string> ClientOf(const httplib::Request& request) const;
  bool Serves(absl::string_view model) const;

  const Generation::Uses uses_;
  const Callers& callers_;
  const Readiness& readiness_;
  const Options options_;
  const std::string identity_;  // the model's, in hexadecimal
  const std::string model_;     // what it is called here
  const int64_t start_time_;    // seconds since 1970

  RunningGenerations running_;  // from before their bodies are read

  HttpServer server_;
};

}  // namespace kvship
