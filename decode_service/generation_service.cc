#include "decode_service/generation_service.h"

#include <atomic>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/status_macros.h"
#include "decode_service/tokenize.h"
#include "rpc/errors.h"
#include "rpc/request_id.h"
#include "service/refused_call.h"
#include "transport/grpc_deadline.h"
#include "transport/grpc_status.h"

namespace kvship {
namespace {

// gRPC closes a connection whose clients have been told to go (GOAWAY) when its last call ends. A
// client that writes just then, be it an answer to a ping, gets a broken pipe and drops what it has
// not read yet. So an answer that ends while the port drains is read first and ends then.
constexpr absl::Duration kReadingTime = absl::Milliseconds(200);

// How long a client may take to read that its deadline has passed. gRPC ends no call before all of
// its answer has been taken, and one that reads nothing would never do that.
constexpr absl::Duration kLinger = absl::Seconds(2);

// One Generate call. Writes what its generation's ResponseBuffer has whenever the last write is
// done.
class GenerateCall final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  GenerateCall(DeadlineWatch& deadlines, absl::Duration stall_timeout, RunningGenerations& running,
               RunningGenerations::Place place, grpc::CallbackServerContext& context)
      : deadlines_(deadlines),
        stall_timeout_(stall_timeout),
        running_(running),
        place_(std::move(place)),
        context_(&context) {}

  static GenerateCall* Start(const Generation::Uses& uses, DeadlineWatch& deadlines,
                             RunningGenerations& running, RunningGenerations::Place place,
                             grpc::CallbackServerContext& context, const std::string& client,
                             const GenerationService::Options& options,
                             v1::GenerateRequest request) {
    auto call = std::make_shared<GenerateCall>(deadlines, options.stall_timeout, running,
                                               std::move(place), context);
    call->self_ = call;
    const std::string id = NewRequestId();
    context.AddInitialMetadata(kRequestIdMetadata, id);
    const absl::Time now = MonotonicNow();
    const absl::Time asked = FromGrpcDeadline(context.raw_deadline());
    const absl::Time deadline =
        asked == absl::InfiniteFuture() ? now + options.default_deadline : asked;
    call->generation_ = std::make_shared<Generation>(
        uses, Generation::Call{.id = id,
                               .client = client,
                               .arrival = now,
                               .deadline = deadline,
                               .trace = TraceContextOf(context.client_metadata())});
    if (const TraceContext& trace = call->generation_->trace(); trace.is_set()) {
      context.AddInitialMetadata(kTraceResponse, trace.TraceParent());
    }
    call->deadline_ = deadlines.Add(deadline, [weak = std::weak_ptr(call)] {
      if (const auto live = weak.lock()) live->OnDeadline();
    });
    {
      std::lock_guard lock(call->mutex_);
      call->WatchForStall(now);
    }
    // Weak: the buffer may speak up once more while gRPC is already done with the call.
    call->generation_->responses().OnResponse([weak = std::weak_ptr(call)] {
      if (const auto live = weak.lock()) live->WriteNext();
    });
    running.Enter(call->place_, call->generation_);
    call->generation_->StartInTurn(std::move(request));
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

  void OnCancel() override {
    generation().Cancel();
    // OnDone, which comes after this and may be the end of the generation, sees what it has done.
    std::lock_guard lock(mutex_);
  }

  void OnDone() override {
    std::shared_ptr<GenerateCall> last;
    {
      std::lock_guard lock(mutex_);
      last = std::move(self_);
      context_ = nullptr;
    }
    deadlines_.Remove(deadline_);
    deadlines_.Remove(stall_);
    place_ = nullptr;  // the service may go now
  }

 private:
  // Locks, so that gRPC's threads see all that Start has made.
  Generation& generation() {
    std::lock_guard lock(mutex_);
    return *generation_;
  }

  // Looks again when a write that begins now, or has begun, would have lasted too long.
  void WatchForStall(absl::Time since) {
    stall_ = deadlines_.Add(since + stall_timeout_, [weak = weak_from_this()] {
      if (const auto live = weak.lock()) live->EndIfStalled();
    });
  }

  void EndIfStalled() {
    {
      std::lock_guard lock(mutex_);
      const absl::Time now = MonotonicNow();
      if (context_ == nullptr) return;
      if (!writing_ || now - write_began_ < stall_timeout_) {
        return WatchForStall(writing_ ? write_began_ : now);
      }
    }
    generation().Cancel(absl::CancelledError(absl::StrCat(
        "the client took nothing of its answer for ", absl::FormatDuration(stall_timeout_))));
    std::lock_guard lock(mutex_);
    if (context_ != nullptr) context_->TryCancel();
  }

  void OnDeadline() {
    generation().Cancel();
    deadlines_.Add(MonotonicNow() + kLinger, [weak = weak_from_this()] {
      const auto live = weak.lock();
      if (live == nullptr) return;
      std::lock_guard lock(live->mutex_);
      if (live->context_ != nullptr) live->context_->TryCancel();
    });
  }

  void WriteNext() {
    std::lock_guard lock(mutex_);
    if (writing_ || finished_) return;
    absl::Status end;
    switch (generation_->responses().Take(&message_, &end)) {
      case ResponseBuffer::Next::kNothing: return;
      case ResponseBuffer::Next::kMessage:
        if (message_.has_report()) return End(grpc::Status::OK);
        writing_ = true;
        write_began_ = MonotonicNow();
        return StartWrite(&message_);
      case ResponseBuffer::Next::kEnd: return End(ToGrpcStatus(end));
    }
  }

  void End(const grpc::Status& status) {
    finished_ = true;
    if (!running_.draining()) return WriteEnd(status);
    deadlines_.Add(MonotonicNow() + kReadingTime, [weak = weak_from_this(), status] {
      const auto live = weak.lock();
      if (live == nullptr) return;
      std::lock_guard lock(live->mutex_);
      live->WriteEnd(status);
    });
  }

  // A report and the status in one piece, as they are read. The caller holds the lock.
  void WriteEnd(const grpc::Status& status) {
    writing_ = true;
    write_began_ = MonotonicNow();
    if (message_.has_report()) return StartWriteAndFinish(&message_, {}, status);
    Finish(status);
  }

  DeadlineWatch& deadlines_;
  const absl::Duration stall_timeout_;
  RunningGenerations& running_;
  RunningGenerations::Place place_;
  std::shared_ptr<GenerateCall> self_;  // shared: until OnDone, and while WriteNext runs
  // shared: the decode batch may still hold it when the call is over
  std::shared_ptr<Generation> generation_;
  std::mutex mutex_;
  grpc::CallbackServerContext* context_;  // null once gRPC is done with the call
  DeadlineWatch::Key deadline_;
  DeadlineWatch::Key stall_;
  v1::GenerateResponse message_;
  bool writing_ = false;
  absl::Time write_began_;
  bool finished_ = false;
};

// A call that has one answer. Its place among its client's requests is given back when gRPC is done
// with it: answers that are not read count.
struct UnaryCall final : grpc::ServerUnaryReactor {
  void OnCancel() override { cancelled = true; }
  void OnDone() override { delete this; }
  std::atomic<bool> cancelled = false;
  ClientRequests::Place place;
};

// Ends a call that has one answer, which `convert` takes its time for, in its client's turn.
template <class Request, class Response>
grpc::ServerUnaryReactor* AnswerInTurn(const Callers& callers, const Generation::Uses& uses,
                                       grpc::CallbackServerContext* context, const Request* request,
                                       Response* response,
                                       absl::StatusOr<Response> (*convert)(const Request&,
                                                                           const ServedModel&)) {
  auto* const call = new UnaryCall;
  const auto answer = [call, &model = uses.model, request, response, convert] {
    if (call->cancelled)
      return call->Finish(ToGrpcStatus(absl::CancelledError("the client has gone")));
    call->Finish(ToGrpcStatus(UnlessOutOfMemory([&]() -> absl::Status {
      ASSIGN_OR_RETURN(*response, convert(*request, model));
      return absl::OkStatus();
    })));
  };
  // Of an exception gRPC would make an error without a word.
  const absl::Status status = UnlessOutOfMemory([&]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string client, callers.Check(*context));
    ASSIGN_OR_RETURN(call->place, uses.client_requests.Enter(client));
    return uses.preparer.Enter(client, request->ByteSizeLong(), answer).status();
  });
  if (!status.ok()) call->Finish(ToGrpcStatus(status));
  return call;
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerationService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  const absl::StatusOr<std::string> client = callers_.Check(*context);
  if (!client.ok()) return Refuse(client.status(), "", *context);
  absl::StatusOr<RunningGenerations::Place> place = running_.Take();
  if (!place.ok()) return Refuse(place.status(), *client, *context);
  // gRPC would keep the message to the call's end, with all that is unknown in it.
  v1::GenerateRequest own;
  own.Swap(const_cast<v1::GenerateRequest*>(request));
  return GenerateCall::Start(uses_, deadlines_, running_, *std::move(place), *context, *client,
                             options_, std::move(own));
}

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerationService::Refuse(
    const absl::Status& error, const std::string& client, grpc::CallbackServerContext& context) {
  const std::string id = NewRequestId();
  context.AddInitialMetadata(kRequestIdMetadata, id);
  uses_.metrics.CountRequest(error, client);
  LogInfo("request refused", {{"request_id", id},
                              {"trace_id", TraceContextOf(context.client_metadata()).trace_id},
                              {"client", client},
                              {"code", absl::StatusCodeToString(error.code())},
                              {"error", LoggedMessage(error)}});
  return new RefusedCall<grpc::ServerWriteReactor<v1::GenerateResponse>>(error);
}

grpc::ServerUnaryReactor* GenerationService::GetModelInfo(
    grpc::CallbackServerContext* context, const v1::GenerationServiceGetModelInfoRequest*,
    v1::GenerationServiceGetModelInfoResponse* response) {
  auto* const call = new UnaryCall;
  const absl::StatusOr<std::string> client = callers_.Check(*context);
  if (client.ok()) *response->mutable_model() = model_info_;
  call->Finish(ToGrpcStatus(client.status()));
  return call;
}

grpc::ServerUnaryReactor* GenerationService::Tokenize(grpc::CallbackServerContext* context,
                                                      const v1::TokenizeRequest* request,
                                                      v1::TokenizeResponse* response) {
  return AnswerInTurn(callers_, uses_, context, request, response, kvship::Tokenize);
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(grpc::CallbackServerContext* context,
                                                        const v1::DetokenizeRequest* request,
                                                        v1::DetokenizeResponse* response) {
  return AnswerInTurn(callers_, uses_, context, request, response, kvship::Detokenize);
}

}  // namespace kvship
