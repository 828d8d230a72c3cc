#include "client/generation_client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "transport/grpc_status.h"

namespace kvship {
namespace {

// Prompts are long; answers come token by token.
constexpr int kMostSentBytes = -1;

std::shared_ptr<grpc::Channel> Connect(const std::string& server) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxSendMessageSize(kMostSentBytes);
  // A server that vanished without a word is noticed while a prompt is read in silence.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
}

void SetDeadline(absl::Time deadline, grpc::ClientContext* context) {
  if (deadline != absl::InfiniteFuture()) context->set_deadline(absl::ToChronoTime(deadline));
}

}  // namespace

GenerationClient::GenerationClient(const std::string& server)
    : server_(server), channel_(Connect(server)), stub_(v1::GenerationService::NewStub(channel_)) {}

absl::StatusOr<v1::GenerateReport> GenerationClient::Generate(
    const v1::GenerateRequest& request, absl::Time deadline,
    const std::function<void(const v1::GenerateResponse&)>& on_response) {
  grpc::ClientContext context;
  SetDeadline(deadline, &context);
  const auto reader = stub_->Generate(&context, request);
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
  RETURN_IF_ERROR(Explain(reader->Finish()));
  if (!complete) return absl::DataLossError("the server ended the answer without a report");
  return report;
}

absl::StatusOr<v1::ModelInfo> GenerationClient::GetModelInfo(absl::Time deadline) {
  grpc::ClientContext context;
  SetDeadline(deadline, &context);
  v1::GenerationServiceGetModelInfoResponse response;
  RETURN_IF_ERROR(Explain(stub_->GetModelInfo(&context, {}, &response)));
  return response.model();
}

absl::Status GenerationClient::Explain(const grpc::Status& status) const {
  absl::Status error = FromGrpcStatus(status);
  if (!absl::IsUnavailable(error) || channel_->GetState(false) == GRPC_CHANNEL_READY) return error;
  return absl::UnavailableError(
      absl::StrCat("the server ", server_, " cannot be reached: ", error.message()));
}

}  // namespace kvship
