#include "decode_service/http/http_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/system_random.h"
#include "decode_service/http/event_stream.h"
#include "decode_service/http/http_body.h"
#include "decode_service/http/http_choices.h"
#include "decode_service/http/http_errors.h"
#include "decode_service/http/openai_response.h"
#include "rpc/errors.h"
#include "rpc/request_id.h"
#include "service/host_port.h"

namespace kvship {
namespace {

using HandlerResponse = httplib::Server::HandlerResponse;

constexpr char kJson[] = "application/json";
constexpr char kPlainText[] = "text/plain; charset=utf-8";
constexpr char kEventStream[] = "text/event-stream";
constexpr char kOldVersion[] = "HTTP/1.0";
constexpr char kHealth[] = "/health";
constexpr char kModels[] = "/v1/models";
constexpr char kOneModel[] = "/v1/models/";
constexpr char kCompletions[] = "/v1/completions";
constexpr char kChat[] = "/v1/chat/completions";

// For the metric: an error that nobody reads, and that is no server's.
void MarkIfClientHasGone(const absl::Status& error, httplib::Response& response) {
  constexpr int kClientHasGone = 499;  // as nginx counts it
  if (absl::IsCancelled(error) && HttpServer::connection().client_has_gone()) {
    response.status = kClientHasGone;
  }
}

// As RFC 9112, section 3.2, requires.
absl::Status CheckHost(const httplib::Request& request, bool this_machine_alone) {
  const size_t num_hosts = request.get_header_value_count("Host");
  if (num_hosts == 0 && request.version == kOldVersion) return absl::OkStatus();
  if (num_hosts != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("the request has ", num_hosts, " headers named Host; wanted one"));
  }
  const std::string host = request.get_header_value("Host");
  if (!this_machine_alone || IsLoopback(host)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "Host is '", host, "'; wanted localhost, 127.0.0.1 or [::1]: without --api_tokens_file or ",
      "--insecure a loopback port is for what knows that it talks to this machine"));
}

// The status code that counts the same refusal on the gRPC port.
absl::StatusCode CodeOf(const OpenAiError& error) {
  switch (error.http_status) {
    case 401: return absl::StatusCode::kUnauthenticated;
    case 404: return absl::StatusCode::kNotFound;
    case 429: return absl::StatusCode::kResourceExhausted;
    case 503: return absl::StatusCode::kUnavailable;
    default: return absl::StatusCode::kInvalidArgument;
  }
}

std::string NameOf(const ServedModel& model, const std::string& identity) {
  return model.config().name.empty() ? identity : model.config().name;
}

OpenAiError WrongMethod(const httplib::Request& request, const char* allowed,
                        httplib::Response& response) {
  response.set_header("Allow", allowed);
  return InvalidOpenAiRequest(
      absl::StrCat("the method for ", request.path, " is ", request.method, "; wanted ", allowed),
      405);
}

absl::StatusOr<std::string> WholeAnswer(HttpChoices& choices, OpenAiResponse& answer) {
  HttpChoices::Message message;
  absl::Status end;
  while (choices.Take(absl::InfiniteFuture(), &message, &end) != ResponseBuffer::Next::kEnd) {
    const v1::GenerateResponse& response = message.response;
    if (response.has_output()) answer.Add(message.choice, response.output());
    if (response.has_report()) answer.End(message.choice, response.report());
  }
  if (!end.ok()) return end;
  return answer.Whole();
}

// FailedPrecondition if a client's limits can never admit all choices together. An invalid choice
// is left to its generation.
absl::Status CheckTogether(const OpenAiRequest& request, const Generation::Uses& uses) {
  const size_t num_choices = request.num_choices();
  if (num_choices == 1) return absl::OkStatus();
  const char* field = request.choices_per_prompt > 1 ? "n" : "prompt";
  RETURN_IF_ERROR(WithField(uses.client_requests.CheckTogether(num_choices), field));
  if (!uses.queue.bounds_clients()) return absl::OkStatus();
  size_t bytes = 0;
  for (size_t i = 0; i < num_choices; i += request.choices_per_prompt) {
    auto read = ReadRequest(request.Choice(i), uses.model, uses.options.limits);
    if (!read.ok()) return absl::OkStatus();
    const size_t max_tail_tokens = read->max_tail_tokens();
    bytes +=
        request.choices_per_prompt *
        uses.queue.PoolBytes({.plan = std::move(read->plan), .max_tail_tokens = max_tail_tokens});
  }
  return WithField(uses.queue.CheckTogether(num_choices, bytes), field);
}

OpenAiError UnknownModel(absl::string_view model, absl::string_view served) {
  OpenAiError error = InvalidOpenAiRequest(
      absl::StrCat("the model '", model, "' is not served here; wanted '", served, "'"), 404);
  error.param = "model";
  error.code = "model_not_found";
  return error;
}

}  // namespace

HttpService::HttpService(const Generation::Uses& uses, const Callers& callers,
                         const Readiness& readiness, bool any_host, const Options& options,
                         TlsContexts tls)
    : uses_(uses),
      callers_(callers),
      readiness_(readiness),
      options_(options),
      identity_(HexString(uses.model.identity)),
      model_(options.served_model_name.empty() ? NameOf(uses.model, identity_)
                                               : options.served_model_name),
      start_time_(absl::ToUnixSeconds(absl::Now())),
      context_tokens_(uses.options.limits.ContextOf(uses.model.config())),
      this_machine_alone_(!any_host && callers.tokens() == nullptr && IsLoopback(options.listen)),
      running_(options.max_requests),
      parse_turns_(options.max_body_bytes),
      // Clients keep idle connections, and refused requests need one too.
      server_({.max_connections = 2 * options.max_requests + 64,
               .max_body_bytes = options.max_body_bytes},
              std::move(tls)) {}

absl::StatusOr<std::unique_ptr<HttpService>> HttpService::Start(const Generation::Uses& uses,
                                                                const Callers& callers,
                                                                const Readiness& readiness,
                                                                const PortSecurity& security,
                                                                const Options& options) {
  TlsContexts tls;
  if (security.has_tls()) {
    ASSIGN_OR_RETURN(tls, ServerTlsContexts(security.tls));
  }
  std::unique_ptr<HttpService> service(
      new HttpService(uses, callers, readiness, security.insecure, options, std::move(tls)));
  HttpService* self = service.get();
  self->server_.set_pre_routing_handler(
      [self](const httplib::Request& request, httplib::Response& response) {
        return self->Route(request, response);
      });
  for (const auto& [path, api] :
       {std::pair(kCompletions, OpenAiApi::kCompletions), std::pair(kChat, OpenAiApi::kChat)}) {
    self->server_.Post(
        path, [self, api = api](const httplib::Request& request, httplib::Response& response,
                                const httplib::ContentReader& reader) {
          self->Answer(api, request, response, reader);
        });
  }
  AnswerErrors(self->server_);
  self->server_.set_logger([self](const httplib::Request&, const httplib::Response& response) {
    self->uses_.metrics.CountHttpResponse(response.status);
  });
  RETURN_IF_ERROR(self->server_.Listen("http", options.listen));
  return service;
}

HttpService::~HttpService() { Stop(absl::ZeroDuration()); }

void HttpService::Stop(absl::Duration grace) {
  StartDraining();
  EndAll(absl::UnavailableError("the server is shutting down; send the request again"));
  server_.Stop(grace);
}

void HttpService::EndAll(const absl::Status& why) {
  parse_turns_.EndAll(why);
  running_.EndAll(why);
}

void HttpService::StartDraining() {
  running_.StartDraining();
  server_.StartDraining();
}

absl::StatusOr<std::string> HttpService::ClientOf(const httplib::Request& request) const {
  return callers_.CheckToken(request.get_header_value("Authorization"));
}

bool HttpService::Serves(absl::string_view model) const {
  return model == model_ || model == identity_;
}

HandlerResponse HttpService::Route(const httplib::Request& request,
                                   httplib::Response& response) const {
  const std::string& path = request.path;
  const bool generates = path == kCompletions || path == kChat;
  const bool reads_only = request.method == "GET" || request.method == "HEAD";
  if (const absl::Status host = CheckHost(request, this_machine_alone_); !host.ok()) {
    RespondAndClose(OpenAiErrorOf(host), response);
    return HandlerResponse::Handled;
  }
  if (generates && request.method == "POST") return HandlerResponse::Unhandled;
  // Nothing reads a body here, whether or not the headers announce one.
  if (!reads_only || HasHttpBody(request)) HttpServer::connection().CloseAfterAnswer();
  // Load balancers have no token.
  if (path == kHealth && reads_only) {
    AnswerHealth(response);
  } else if (const auto client = ClientOf(request); !client.ok()) {
    Respond(OpenAiErrorOf(client.status()), response);
  } else if (generates) {
    Respond(WrongMethod(request, "POST", response), response);
  } else if (path != kHealth && path != kModels && !absl::StartsWith(path, kOneModel)) {
    Respond(InvalidOpenAiRequest(absl::StrCat("there is no ", path, " here"), 404), response);
  } else if (!reads_only) {
    Respond(WrongMethod(request, "GET, HEAD", response), response);
  } else {
    AnswerModels(path, response);
  }
  return HandlerResponse::Handled;
}

void HttpService::AnswerHealth(httplib::Response& response) const {
  const bool ready = readiness_.Check().ok();
  response.status = ready ? 200 : 503;
  // The reason names prefill nodes; only the admin port may show it.
  response.set_content(ready ? "ready\n" : "not ready\n", kPlainText);
}

void HttpService::AnswerModels(absl::string_view path, httplib::Response& response) const {
  response.status = 200;
  if (!absl::ConsumePrefix(&path, kOneModel)) {
    response.set_content(ModelListJson(model_, start_time_, context_tokens_), kJson);
  } else if (Serves(path)) {
    response.set_content(ModelJson(model_, start_time_, context_tokens_), kJson);
  } else {
    Respond(UnknownModel(path, model_), response);
  }
}

void HttpService::Answer(OpenAiApi api, const httplib::Request& request,
                         httplib::Response& response, const httplib::ContentReader& reader) {
  const auto refuse = [&](const OpenAiError& error, const std::string& name) {
    Refuse(error, CodeOf(error), request, name, response);
  };
  // Refusing a request before its whole body is read closes the connection.
  const auto refuse_and_close = [&](const OpenAiError& error, const std::string& name) {
    HttpServer::connection().CloseAfterAnswer();
    refuse(error, name);
  };
  const absl::StatusOr<std::string> client = ClientOf(request);
  if (!client.ok()) return refuse_and_close(OpenAiErrorOf(client.status()), "");
  // Before the body: who sends many slowly shall not take all places of the port.
  absl::StatusOr<ClientRequests::Place> of_client = uses_.client_requests.Enter(*client);
  if (!of_client.ok()) return refuse_and_close(OpenAiErrorOf(of_client.status()), *client);
  absl::StatusOr<RunningGenerations::Place> place = running_.Take();
  if (!place.ok()) return refuse_and_close(OpenAiErrorOf(place.status()), *client);
  HttpServer::connection().KeepConnection();
  std::string body;
  if (const auto error = ReadHttpBody(request, reader, options_.max_body_bytes, &body)) {
    return refuse_and_close(*error, *client);
  }
  const absl::Time arrival = MonotonicNow();  // of its last byte
  auto asked = Parse(api, body, arrival + options_.deadline);
  if (!asked.ok()) {
    Refuse(OpenAiErrorOf(asked.status()), asked.status().code(), request, *client, response);
    return MarkIfClientHasGone(asked.status(), response);
  }
  const auto& chat = uses_.model.chat_template;
  if (api == OpenAiApi::kChat && chat && !chat->traits().has_parallel_calls) {
    asked->prompts[0].mutable_chat()->set_single_call(true);  // the template cannot tell several
  }
  if (!Serves(asked->model)) {
    return refuse(UnknownModel(asked->model, model_), *client);
  }
  if (const absl::Status fits = CheckTogether(*asked, uses_); !fits.ok()) {
    return Refuse(OpenAiErrorOf(fits), fits.code(), request, *client, response);
  }
  Generate(request, *asked, *client, arrival, {*std::move(of_client), *std::move(place)}, response);
}

absl::StatusOr<OpenAiRequest> HttpService::Parse(OpenAiApi api, const std::string& body,
                                                 absl::Time deadline) {
  HttpConnection& connection = HttpServer::connection();
  ASSIGN_OR_RETURN(const ParseTurns::Turn turn,
                   parse_turns_.Wait(body.size(), deadline,
                                     [&connection] { return connection.client_has_gone(); }));
  return ReadOpenAiRequest(api, body, context_tokens_, SystemRandomBits());
}

void HttpService::Refuse(const OpenAiError& error, absl::StatusCode code,
                         const httplib::Request& request, const std::string& client,
                         httplib::Response& response) const {
  const std::string id = NewRequestId();
  absl::Status status(code, error.message);
  if (!error.reason.empty()) status = WithReason(status, error.reason);
  uses_.metrics.CountRequest(status, client);
  // Messages about the request quote it.
  const bool quotes = code == absl::StatusCode::kInvalidArgument || error.http_status == 404;
  LogInfo("request refused", {{"request_id", id},
                              {"trace_id", TraceContextOf(request.headers).trace_id},
                              {"client", client},
                              {"code", absl::StatusCodeToString(code)},
                              {"error", quotes ? "" : error.message}});
  response.set_header("x-request-id", id);
  Respond(error, response);
}

void HttpService::Generate(const httplib::Request& http, const OpenAiRequest& request,
                           const std::string& client, absl::Time arrival, Places places,
                           httplib::Response& response) {
  HttpConnection& connection = HttpServer::connection();
  const absl::Time deadline = arrival + std::min(request.timeout, options_.deadline);
  connection.SetAnswerDeadline(deadline);
  const std::string id = NewRequestId();
  response.set_header("x-request-id", id);
  const TraceContext trace = TraceContextOf(http.headers);
  std::vector<std::shared_ptr<Generation>> generations;
  for (size_t i = 0; i < request.num_choices(); ++i) {
    generations.push_back(
        std::make_shared<Generation>(uses_,
                                     Generation::Call{.id = i == 0 ? id : absl::StrCat(id, "-", i),
                                                      .client = client,
                                                      .arrival = arrival,
                                                      .deadline = deadline,
                                                      .trace = trace},
                                     std::exchange(places.of_client, nullptr)));
    running_.Enter(places.of_port, generations[i]);
  }
  if (generations[0]->trace().is_set()) {
    response.set_header(kTraceResponse, generations[0]->trace().TraceParent());
  }
  auto choices = std::make_unique<HttpChoices>(std::move(generations), deadline, connection);
  choices->Start(request);
  OpenAiResponse answer(
      request,
      {.id = id,
       .created = absl::ToUnixSeconds(absl::Now()),
       .model = model_,
       .fingerprint = absl::StrCat("fp_", identity_.substr(0, 12))},
      uses_.model.tokenizer.get(),
      CallsIn(request.prompts[0].chat(), !request.generate.json_schema().empty(), uses_.model));
  const auto fail = [&response](const absl::Status& error) {
    Respond(OpenAiErrorOf(error), response);
    MarkIfClientHasGone(error, response);
  };
  response.status = 200;
  if (!request.stream) {
    const absl::StatusOr<std::string> whole = WholeAnswer(*choices, answer);
    if (!whole.ok()) return fail(whole.status());
    return response.set_content(*whole, kJson);
  }
  const auto stream =
      std::make_shared<EventStream>(std::move(choices), std::move(answer), request.progress);
  if (absl::Status begin = stream->Begin(); !begin.ok()) {
    return fail(begin);
  }
  response.set_header("Cache-Control", "no-cache");
  response.set_header("X-Accel-Buffering", "no");  // nginx would buffer the events
  // Both live as long as the response.
  auto write_next = [stream, place = std::move(places.of_port)](size_t, httplib::DataSink& sink) {
    return stream->WriteNext(sink);
  };
  if (http.version == kOldVersion) {  // no chunks: the response ends with the connection
    connection.CloseAfterAnswer();
    return response.set_content_provider(kEventStream, std::move(write_next));
  }
  response.set_chunked_content_provider(kEventStream, std::move(write_next));
}

}  // namespace kvship
