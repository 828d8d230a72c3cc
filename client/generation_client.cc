#include "client/generation_client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "client/retry.h"
#include "transport/grpc_status.h"

namespace kvship {
namespace {

// gRPC's words for a message that its receiver does not take.
constexpr char kTooLarge[] = "message larger than max";

// Prompts are long; answers come token by token.
constexpr int kMostSentBytes = -1;

std::shared_ptr<grpc::Channel> Connect(
    const std::string& server, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxSendMessageSize(kMostSentBytes);
  // Else all channels to one address would share a connection.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A server that vanished without a word is noticed while a prompt is read in silence.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Calls are made again by Attempts' rules; the channel must try to connect as often.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5'000);
  return grpc::CreateCustomChannel(
      server, credentials ? credentials : grpc::InsecureChannelCredentials(), arguments);
}

// False if a stop was requested meanwhile.
bool Wait(absl::Duration delay, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  wake.wait_for(lock, stop, absl::ToChronoNanoseconds(delay), [] { return false; });
  return !stop.stop_requested();
}

// What gRPC itself says of a call's end. Servers' own errors have details, these have none.
absl::Status EndByGrpc(const grpc::Status& status, const std::string& server,
                       absl::Duration timeout) {
  const std::string& message = status.error_message();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return absl::UnavailableError(
          absl::StrCat("the server ", server, " cannot be reached: ", message));
    case grpc::StatusCode::UNIMPLEMENTED:
      return absl::UnimplementedError(absl::StrCat(
          "the server ", server,
          " does not serve this call of kvship.v1.GenerationService; wanted a decode node's "
          "address (is this a prefill node's?)"));
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      // Not for want of room, which passes, as with gRPC's other such ends.
      if (absl::StrContains(message, kTooLarge)) {
        return absl::FailedPreconditionError(absl::StrCat(
            "a message, most likely the request, is too large for its receiver: ", message));
      }
      break;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return absl::DeadlineExceededError(
          absl::StrCat("the timeout of ", absl::FormatDuration(timeout), " has passed"));
    default: break;
  }
  return absl::Status(
      code, absl::StrCat("the call to the server ", server,
                         " failed: ", message.empty() ? absl::StatusCodeToString(code) : message));
}

}  // namespace

absl::Status CheckApiToken(absl::string_view source, absl::string_view token) {
  const auto wrong = std::find_if_not(token.begin(), token.end(),
                                      [](unsigned char c) { return absl::ascii_isprint(c); });
  if (wrong == token.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "the API token of %s has byte 0x%02X at offset %d; wanted printable ASCII characters alone, "
      "in one line",
      source, static_cast<unsigned char>(*wrong), wrong - token.begin()));
}

GenerationClient::GenerationClient(const std::string& server)
    : GenerationClient(server, Options()) {}

GenerationClient::GenerationClient(const std::string& server, Options options)
    : server_(server),
      options_(std::move(options)),
      token_status_(CheckApiToken("Options::api_token", options_.api_token)) {
  for (size_t i = 0; i < std::max<size_t>(1, options_.connections); ++i) {
    stubs_.push_back(v1::GenerationService::NewStub(Connect(server, options_.credentials)));
  }
}

void GenerationClient::SetContext(absl::Duration timeout, grpc::ClientContext* context) const {
  if (timeout != absl::InfiniteDuration()) {
    context->set_deadline(absl::ToChronoTime(WallNow() + timeout));
  }
  if (options_.api_token.empty() || !token_status_.ok()) return;
  context->AddMetadata("authorization", absl::StrCat("Bearer ", options_.api_token));
}

absl::StatusOr<v1::GenerateReport> GenerationClient::Generate(
    const v1::GenerateRequest& request, absl::Duration timeout,
    const std::function<void(const v1::GenerateResponse&)>& on_response,
    const std::stop_token& stop) {
  RETURN_IF_ERROR(token_status_);
  bool has_output = false;
  const auto watch = [&](const v1::GenerateResponse& response) {
    has_output |= response.has_output();
    on_response(response);
  };
  const Limit limit = {.timeout = timeout, .deadline = MonotonicNow() + timeout};
  Attempts attempts(options_.retries, limit.deadline);
  while (true) {
    auto report = GenerateOnce(request, limit, watch, stop);
    if (report.ok() || has_output) return report;
    const auto delay = attempts.DelayAfter(report.status());
    if (!delay.has_value()) return report;
    if (!Wait(*delay, stop)) return absl::CancelledError("the call was cancelled");
  }
}

absl::StatusOr<v1::GenerateReport> GenerationClient::GenerateOnce(
    const v1::GenerateRequest& request, const Limit& limit,
    const std::function<void(const v1::GenerateResponse&)>& on_response,
    const std::stop_token& stop) {
  grpc::ClientContext context;
  SetContext(limit.deadline - MonotonicNow(), &context);
  const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
  const auto reader = stub().Generate(&context, request);
  v1::GenerateReport report;
  bool complete = false;
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    if (response.has_report()) {
      report = response.report();
      complete = true;
    } else {
      on_response(response);
    }
  }
  RETURN_IF_ERROR(EndOf(reader->Finish(), limit.timeout, stop.stop_requested()));
  if (!complete) return absl::DataLossError("the server ended the answer without a report");
  return report;
}

absl::StatusOr<v1::ModelInfo> GenerationClient::GetModelInfo(absl::Duration timeout) {
  RETURN_IF_ERROR(token_status_);
  const absl::Time deadline = MonotonicNow() + timeout;
  Attempts attempts(options_.retries, deadline);
  while (true) {
    grpc::ClientContext context;
    SetContext(deadline - MonotonicNow(), &context);
    v1::GenerationServiceGetModelInfoResponse response;
    const absl::Status status =
        EndOf(stub().GetModelInfo(&context, {}, &response), timeout, /*stopped=*/false);
    if (status.ok()) return response.model();
    const auto delay = attempts.DelayAfter(status);
    if (!delay.has_value()) return status;
    absl::SleepFor(*delay);
  }
}

absl::Status GenerationClient::EndOf(const grpc::Status& status, absl::Duration timeout,
                                     bool stopped) const {
  if (status.error_code() == grpc::StatusCode::CANCELLED) {
    if (stopped) return absl::CancelledError("the call was cancelled");
    // What gRPC's servers do with calls that arrive as the port is closed.
    return absl::UnavailableError(absl::StrCat("the server ", server_, " let the call go"));
  }
  if (status.ok() || !status.error_details().empty()) return FromGrpcStatus(status);
  return EndByGrpc(status, server_, timeout);
}

}  // namespace kvship
