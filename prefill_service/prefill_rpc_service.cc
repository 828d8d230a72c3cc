#include "prefill_service/prefill_rpc_service.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "engine/sampling.h"
#include "prefill_service/nccl_sender.h"
#include "rpc/errors.h"
#include "rpc/model_info.h"
#include "rpc/request_id.h"
#include "rpc/sealed_message.h"
#include "rpc/wire_version.h"
#include "service/refused_call.h"
#include "transport/grpc_status.h"

namespace kvship {

// One Prefill call: what its client says, in order.
class PrefillCall final : public FrameChannelEvents {
 public:
  PrefillCall(PrefillRpcService& service, const PrefillTrace& trace, std::string caller,
              std::shared_ptr<FrameChannel> channel)
      : service_(service),
        parts_(service.parts_),
        trace_(trace),
        caller_(std::move(caller)),
        channel_(std::move(channel)) {
    std::lock_guard lock(service_.mutex_);
    ++service_.num_calls_;
  }
  ~PrefillCall() override {
    std::lock_guard lock(service_.mutex_);
    if (--service_.num_calls_ == 0) service_.idle_.notify_all();
  }

  void OnMessage(std::span<const std::byte> message) override {
    const absl::Status status = Read(message);
    if (status.ok()) return;
    // Requests that were submitted are counted and logged by the scheduler.
    if (request_ == nullptr && !refused_) {
      parts_.metrics.CountRequest(status.code());
      trace_.End(request_id_, {}, status);
      LogInfo("request refused", {{"request_id", request_id_},
                                  {"trace_id", trace_.context().trace_id},
                                  {"code", absl::StatusCodeToString(status.code())},
                                  {"error", LoggedMessage(status)}});
    }
    refused_ = true;
    channel_->Close(status);
    if (request_ != nullptr) parts_.scheduler.Cancel(*request_, status);
  }

  void OnSent() override {
    if (nccl_ != nullptr) nccl_->OnSent();
    if (request_ != nullptr) parts_.scheduler.NoticeSent();
  }

  void OnClosed(const absl::Status& status) override {
    if (nccl_ != nullptr) nccl_->OnClosed(status);
    if (request_ != nullptr) parts_.scheduler.Cancel(*request_, status);
    channel_.reset();
  }

 private:
  absl::Status Read(std::span<const std::byte> message) {
    v1::PrefillRequest request;
    const Seal seal = SealOf(message);
    if (!request.ParseFromArray(message.data(), static_cast<int>(message.size()))) {
      return seal == Seal::kIntact
                 ? absl::InvalidArgumentError("a message is no PrefillRequest")
                 : absl::DataLossError("a message is no PrefillRequest, and has no intact seal");
    }
    if (request.has_begin()) client_version_ = request.begin().wire_version();
    RETURN_IF_ERROR(CheckSeal(seal, client_version_));
    switch (request.message_case()) {
      case v1::PrefillRequest::kBegin: return Begin(request.begin());
      case v1::PrefillRequest::kGo: return Go(request.go());
      case v1::PrefillRequest::kNccl:
        if (nccl_ != nullptr) return nccl_->OnAnswer(request.nccl());
        return absl::InvalidArgumentError("nccl came, and Ready did not offer it; wanted none");
      default: return absl::InvalidArgumentError("a message is empty; wanted begin or go");
    }
  }

  absl::Status Begin(const v1::PrefillBegin& begin) {
    if (request_ != nullptr) {
      return absl::DataLossError("begin came a second time; wanted it once");
    }
    request_id_ = begin.request_id().substr(0, kMostRequestIdBytes);
    ASSIGN_OR_RETURN(PrefillTask task, ReadBegin(begin, parts_.model, parts_.identity));
    task.trace = trace_;
    std::shared_ptr<FrameChannel> channel = channel_;
    if (parts_.nccl != nullptr && begin.has_nccl()) {
      task.offers_nccl = true;
      channel = nccl_ =
          NcclSender::Create(*parts_.nccl, caller_, begin.nccl().gpu(), channel_,
                             [&scheduler = parts_.scheduler] { scheduler.NoticeSent(); });
    }
    ASSIGN_OR_RETURN(request_, parts_.scheduler.Submit(std::move(task), std::move(channel)));
    // Not before: whoever is refused is not invited.
    if (nccl_ != nullptr) nccl_->Meet(begin.nccl());
    return absl::OkStatus();
  }

  absl::Status Go(const v1::PrefillGo& go) {
    if (request_ == nullptr) {
      return absl::DataLossError("go came before begin; wanted begin first");
    }
    if (nccl_ != nullptr && go.transport() == kNcclTransport) {
      nccl_->Begin();
    } else if (go.transport() != kGrpcTransport) {
      return WrongField("go.transport", absl::StrCat("'", go.transport().substr(0, 64), "'"),
                        absl::StrCat("one that Ready offered, as '", kGrpcTransport, "'"));
    }
    return parts_.scheduler.Go(*request_);
  }

  PrefillRpcService& service_;
  const PrefillRpcService::Parts& parts_;
  const PrefillTrace trace_;
  const std::string caller_;               // empty: not known
  std::shared_ptr<FrameChannel> channel_;  // shared with the scheduler
  // Null where client or node has no NCCL. shared: as the channel
  std::shared_ptr<NcclSender> nccl_;
  v1::WireVersion client_version_;  // none before Begin, as the next
  std::string request_id_;
  std::shared_ptr<PrefillScheduler::Request> request_;
  bool refused_ = false;
};

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* PrefillRpcService::Prefill(
    grpc::CallbackServerContext* context) {
  const auto caller = parts_.callers.Check(*context);
  if (!caller.ok()) {
    parts_.metrics.CountRequest(caller.status().code());
    return new RefusedCall<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>>(
        caller.status());
  }
  const PrefillTrace trace(parts_.tracer, TraceContextOf(context->client_metadata()));
  if (trace.context().is_set()) {
    context->AddInitialMetadata(kTraceResponse, trace.context().TraceParent());
  }
  return ServeChannel(context, options_, deadlines_,
                      [&](const auto& channel) { return Accept(channel, trace, *caller); });
}

std::shared_ptr<FrameChannelEvents> PrefillRpcService::Accept(
    const std::shared_ptr<FrameChannel>& channel, const PrefillTrace& trace,
    const std::string& caller) {
  return std::make_shared<PrefillCall>(*this, trace, caller, channel);
}

grpc::ServerUnaryReactor* PrefillRpcService::GetModelInfo(
    grpc::CallbackServerContext* context, const v1::PrefillServiceGetModelInfoRequest*,
    v1::PrefillServiceGetModelInfoResponse* response) {
  absl::Status status = parts_.callers.Check(*context).status();
  if (status.ok()) status = FillModelInfo(response);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

absl::Status PrefillRpcService::FillModelInfo(
    v1::PrefillServiceGetModelInfoResponse* response) const {
  const absl::Status ready = parts_.readiness.Check();
  const bool draining = parts_.readiness.draining();
  if (!ready.ok() && !draining) return WithReason(ready, kNotReady);
  *response->mutable_model() =
      ModelInfoToProto(parts_.model, parts_.identity, parts_.model.context_tokens);
  response->mutable_load()->set_prompt_tokens(parts_.scheduler.unread_tokens());
  response->mutable_load()->set_draining(draining);
  response->mutable_load()->set_keeps_prefixes(parts_.keeps_prefixes);
  return absl::OkStatus();
}

bool PrefillRpcService::WaitUntilIdle(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  return idle_.wait_until(lock, ToSteadyTime(MonotonicNow() + timeout),
                          [this] { return num_calls_ == 0; });
}

size_t PrefillRpcService::MostMessageBytes(const ModelConfig& model) {
  constexpr size_t kMostTokenBytes = 5;
  constexpr size_t kOtherFields = 64 << 10;
  return model.context_tokens * kMostTokenBytes +
         TokenMaskWords(model.vocab_tokens) * sizeof(TokenMask::value_type) + kOtherFields;
}

}  // namespace kvship
