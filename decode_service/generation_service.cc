#include "decode_service/generation_service.h"

#include <functional>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "decode_service/tokenize.h"
#include "rpc/request_id.h"
#include "transport/grpc_status.h"

namespace kvship {
namespace {

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

// One Generate call. Writes what its generation's ResponseBuffer has whenever the last write is
// done.
class GenerateCall final : public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  explicit GenerateCall(std::function<void()> on_done) : on_done_(std::move(on_done)) {}

  static GenerateCall* Start(const Generation::Uses& uses, grpc::CallbackServerContext& context,
                             const v1::GenerateRequest& request, std::function<void()> on_done) {
    auto call = std::make_shared<GenerateCall>(std::move(on_done));
    call->self_ = call;
    const std::string id = NewRequestId();
    context.AddInitialMetadata(kRequestIdMetadata, id);
    call->generation_ = std::make_shared<Generation>(uses, id, absl::Now(), DeadlineOf(context));
    // Weak: the buffer may speak up once more while gRPC is already done with the call.
    call->generation_->responses().OnResponse([weak = std::weak_ptr(call)] {
      if (const auto live = weak.lock()) live->WriteNext();
    });
    call->generation_->Start(request);
    return call.get();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) generation().Cancel();
    {
      std::lock_guard lock(mutex_);
      writing_ = false;
    }
    WriteNext();
  }

  void OnCancel() override { generation().Cancel(); }

  void OnDone() override {
    std::shared_ptr<GenerateCall> last;
    {
      std::lock_guard lock(mutex_);
      last = std::move(self_);
    }
    on_done_();
  }

 private:
  // Locks, so that gRPC's threads see all that Start has made.
  Generation& generation() {
    std::lock_guard lock(mutex_);
    return *generation_;
  }

  void WriteNext() {
    std::lock_guard lock(mutex_);
    if (writing_ || finished_) return;
    absl::Status end;
    switch (generation_->responses().Take(&message_, &end)) {
      case ResponseBuffer::Next::kNothing: return;
      case ResponseBuffer::Next::kMessage: writing_ = true; return StartWrite(&message_);
      case ResponseBuffer::Next::kEnd: finished_ = true; return Finish(ToGrpcStatus(end));
    }
  }

  const std::function<void()> on_done_;
  std::shared_ptr<GenerateCall> self_;  // shared: until OnDone, and while WriteNext runs
  // shared: the decode batch may still hold it when the call is over
  std::shared_ptr<Generation> generation_;
  std::mutex mutex_;
  v1::GenerateResponse message_;
  bool writing_ = false;
  bool finished_ = false;
};

// A call that is refused before anything is known of it.
class RefusedCall final : public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  explicit RefusedCall(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

// Ends a call that has one answer.
template <class Response>
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                 const absl::StatusOr<Response>& answer, Response* response) {
  if (answer.ok()) *response = *answer;
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(answer.status()));
  return reactor;
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerationService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  {
    std::lock_guard lock(mutex_);
    if (draining_) {
      return new RefusedCall(absl::UnavailableError("the server is shutting down"));
    }
    ++num_calls_;
  }
  return GenerateCall::Start(uses_, *context, *request, [this] { CallDone(); });
}

void GenerationService::CallDone() {
  std::lock_guard lock(mutex_);
  --num_calls_;
  idle_.notify_all();
}

void GenerationService::StartDraining() {
  std::lock_guard lock(mutex_);
  draining_ = true;
}

bool GenerationService::WaitUntilIdle(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  return idle_.wait_until(lock, absl::ToChronoTime(deadline), [this] { return num_calls_ == 0; });
}

grpc::ServerUnaryReactor* GenerationService::GetModelInfo(
    grpc::CallbackServerContext* context, const v1::GenerationServiceGetModelInfoRequest*,
    v1::GenerationServiceGetModelInfoResponse* response) {
  *response->mutable_model() = model_info_;
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* GenerationService::Tokenize(grpc::CallbackServerContext* context,
                                                      const v1::TokenizeRequest* request,
                                                      v1::TokenizeResponse* response) {
  return Answer(context, kvship::Tokenize(*request, uses_.model), response);
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(grpc::CallbackServerContext* context,
                                                        const v1::DetokenizeRequest* request,
                                                        v1::DetokenizeResponse* response) {
  return Answer(context, kvship::Detokenize(*request, uses_.model), response);
}

}  // namespace kvship
