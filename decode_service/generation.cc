#include "decode_service/generation.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/status_macros.h"
#include "decode_service/prefill_fault.h"
#include "decode_service/rejection.h"
#include "rpc/compression.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

// Prefill nodes tried for one prompt.
constexpr size_t kMostAttempts = 3;

}  // namespace

bool Generation::Start(const v1::GenerateRequest& message) {
  bool compiles = false;
  absl::Status status = UnlessOutOfMemory([&]() -> absl::Status {
    if (responses_->cancelled()) return responses_->why_cancelled();
    RETURN_IF_ERROR(Prepare(message));
    if (request_.structure.empty()) return absl::OkStatus();
    matcher_ = uses_.model.grammars->Kept(request_.structure);
    compiles = matcher_ == nullptr;
    if (!compiles) return absl::OkStatus();
    return WaitIn(uses_.compiler, request_.structure.size(),
                  [self = shared_from_this()] { self->Compile(); });
  });
  if (status.ok() && compiles) return true;
  if (status.ok()) status = GoOn();
  if (!status.ok()) Fail(status);
  return status.ok();
}

void Generation::StartInTurn(v1::GenerateRequest message) {
  const absl::Status status = UnlessOutOfMemory([&]() -> absl::Status {
    ASSIGN_OR_RETURN(place_, uses_.client_requests.Enter(call_.client));
    // shared: a task is copied
    const auto held = std::make_shared<const v1::GenerateRequest>(std::move(message));
    return WaitIn(uses_.preparer, held->ByteSizeLong(),
                  [self = shared_from_this(), held] { self->Start(*held); });
  });
  if (!status.ok()) Fail(status);
}

absl::Status Generation::WaitIn(WorkQueue& queue, size_t num_bytes, WorkQueue::Task task) {
  std::lock_guard lock(mutex_);
  if (responses_->cancelled()) return responses_->why_cancelled();
  ASSIGN_OR_RETURN(const size_t place, queue.Enter(call_.client, num_bytes, std::move(task)));
  turn_ = {&queue, place};
  return absl::OkStatus();
}

absl::Status Generation::Prepare(const v1::GenerateRequest& message) {
  if (place_ == nullptr) {
    ASSIGN_OR_RETURN(place_, uses_.client_requests.Enter(call_.client));
  }
  ASSIGN_OR_RETURN(request_, ReadRequest(message, uses_.model, uses_.options.limits));
  report_.mutable_usage()->set_prompt_tokens(static_cast<uint32_t>(request_.tokens.size()));
  RETURN_IF_ERROR(WithField(uses_.loop.CheckPlan(request_.plan), "compression"));
  ASSIGN_OR_RETURN(ticket_, uses_.queue.Enter({.plan = request_.plan,
                                               .max_tail_tokens = request_.max_tail_tokens(),
                                               .client = call_.client}));
  request_.request_id = call_.id;
  return absl::OkStatus();
}

void Generation::Compile() {
  if (responses_->cancelled()) return Fail(responses_->why_cancelled());
  const absl::Time begun = MonotonicNow();
  absl::Status status = UnlessOutOfMemory([&]() -> absl::Status {
    ASSIGN_OR_RETURN(matcher_, uses_.model.grammars->Match(request_.structure));
    return absl::OkStatus();
  });
  uses_.metrics.ObserveStructure(MonotonicNow() - begun);
  status = absl::IsInvalidArgument(status) ? WrongStructure(status) : status;
  if (status.ok()) status = GoOn();
  if (!status.ok()) Fail(status);
}

absl::Status Generation::WrongStructure(const absl::Status& status) const {
  const std::string& field = request_.structure_field;
  return WithField(
      absl::InvalidArgumentError(absl::StrCat(field, " cannot be compiled: ", status.message())),
      field);
}

absl::Status Generation::GoOn() {
  RETURN_IF_ERROR(UnlessOutOfMemory([&]() -> absl::Status {
    if (matcher_ == nullptr) return absl::OkStatus();
    auto allowed = matcher_->Allowed();
    if (!allowed.ok()) return WrongStructure(allowed.status());
    request_.first_token_mask = *std::move(allowed);
    return absl::OkStatus();
  }));
  if (!uses_.queue.has_line()) return Attempt(nullptr);
  WaitForRoom();
  return absl::OkStatus();
}

void Generation::GiveBack() {
  ticket_.reset();
  place_.reset();
}

void Generation::WaitForRoom() {
  trace_.BeginQueue();
  v1::GenerateProgress progress;
  progress.set_phase(v1::GenerateProgress::PHASE_QUEUED);
  progress.set_prompt_tokens(static_cast<uint32_t>(request_.tokens.size()));
  responses_->SetProgress(progress);
  bool may_wait;
  {
    std::lock_guard lock(mutex_);
    may_wait = in_line_ = !responses_->cancelled();
    if (may_wait) {
      uses_.queue.StandInLine(
          *ticket_, [self = shared_from_this()](absl::StatusOr<ReservationQueue::Cache> cache) {
            self->OnRoom(std::move(cache));
          });
    }
  }
  if (!may_wait) return Fail(responses_->why_cancelled());
  uses_.queue.ServeLine();
}

void Generation::OnRoom(absl::StatusOr<ReservationQueue::Cache> cache) {
  {
    std::lock_guard lock(mutex_);
    in_line_ = false;
  }
  if (responses_->cancelled()) {
    cache = responses_->why_cancelled();  // frees the pages before the request's end is visible
    return Fail(cache.status());
  }
  absl::Status status = cache.status();
  if (status.ok()) status = Attempt(*std::move(cache));
  if (!status.ok()) Fail(status);
}

absl::Status Generation::Attempt(ReservationQueue::Cache cache) {
  PrefillNodes::Visit visit;
  std::shared_ptr<PrefillAttempt> attempt;
  absl::Status prepared = UnlessOutOfMemory([&]() -> absl::Status {
    std::unique_lock lock(mutex_);
    const std::set<std::string> tried = tried_;
    const PrefillFault fault = FaultOf(failure_);
    lock.unlock();
    // A client that will be told to retry must not wait for an unlikely connection.
    const auto worst = fault == PrefillFault::kFull ? PrefillNode::Standing::kEjected
                                                    : PrefillNode::Standing::kSilent;
    ASSIGN_OR_RETURN(visit, uses_.nodes.Choose(request_.tokens, request_.cache_salt, tried, worst,
                                               request_.most_reused()));
    // The callbacks keep this request alive as long as the attempt needs it.
    attempt = std::make_shared<PrefillAttempt>(
        request_, uses_.model.identity,
        PrefillAttempt::Memory{uses_.queue, *ticket_, std::move(cache)},
        [self = shared_from_this()](const v1::GenerateProgress& progress) {
          self->responses_->SetProgress(progress);
        },
        [self = shared_from_this(), visit](absl::StatusOr<PrefillAttempt::Result> result) {
          self->OnAttemptEnd(visit, std::move(result));
        });
    lock.lock();
    // Whoever cancels it later sees the attempt.
    if (responses_->cancelled()) return responses_->why_cancelled();
    tried_.insert(visit.node->address());
    visit.node->Enter(attempt);
    attempt_ = attempt;
    attempt_begin_ = MonotonicNow();
    return absl::OkStatus();
  });
  if (!prepared.ok()) {
    if (visit.node != nullptr) uses_.nodes.Ended(visit, absl::CancelledError());
    return prepared;
  }
  const TraceContext trace = trace_.BeginAttempt(visit.node->address());
  // This node ends the request at its deadline. gRPC must not do so at the same moment: it would
  // pass for a proxy's, and cutting off a transfer costs the communicator.
  const absl::Duration patience =
      uses_.nccl == nullptr ? absl::Seconds(1) : 2 * uses_.nccl->endpoint().transfer_timeout;
  const auto connect = [&](std::shared_ptr<ChannelEvents> events) {
    return visit.node->connection().Open(ToWallTime(call_.deadline + patience), std::move(events),
                                         trace.Metadata());
  };
  attempt->Open(connect, uses_.nccl == nullptr
                             ? nullptr
                             : std::make_shared<NcclReceiver>(*uses_.nccl, visit.node->address(),
                                                              request_.plan.wire_bytes()));
  return absl::OkStatus();
}

void Generation::Cancel() {
  Cancel(GoesByDeadline(call_.arrival, call_.deadline, MonotonicNow())
             ? DeadlinePassed()
             : absl::CancelledError("the client has gone"));
}

void Generation::Cancel(const absl::Status& why) {
  responses_->Cancel(why);
  std::shared_ptr<PrefillAttempt> attempt;
  bool waited;
  {
    std::lock_guard lock(mutex_);
    attempt = attempt_;
    // If its turn has come right now, Start, Compile or OnRoom ends it.
    const bool was_in_line = in_line_ && uses_.queue.StepOut(*ticket_);
    if (was_in_line) in_line_ = false;
    waited = was_in_line || (turn_ && turn_->queue->Leave(call_.client, turn_->place));
  }
  if (attempt != nullptr) attempt->Cancel(why);
  if (waited) Fail(why);
}

void Generation::OnAttemptEnd(const PrefillNodes::Visit& visit,
                              absl::StatusOr<PrefillAttempt::Result> result) {
  if (result.ok()) {
    if (absl::Status status = CheckFirstToken(result->first_token); !status.ok()) result = status;
  }
  std::unique_lock lock(mutex_);
  const std::shared_ptr<PrefillAttempt> attempt = std::exchange(attempt_, nullptr);
  if (attempt->found_no_room()) tried_.erase(visit.node->address());
  lock.unlock();
  visit.node->Leave(attempt);
  // An attempt that this side ended says nothing about the node, whatever the error.
  const bool ended_here = !result.ok() && (responses_->cancelled() || attempt->failed_here());
  uses_.nodes.Ended(visit, ended_here ? absl::CancelledError() : result.status());
  trace_.EndAttempt(result.status(), result.ok() ? absl::Milliseconds(result->timing.transfer_ms())
                                                 : absl::ZeroDuration());
  if (responses_->cancelled()) {
    result = responses_->why_cancelled();  // frees the cache before the request's end is visible
    return Fail(result.status());
  }
  if (attempt->found_no_room()) return WaitForRoom();
  if (attempt->failed_here()) return Fail(result.status());
  if (result.ok()) return Decode(*std::move(result));
  OnNodeFailure(visit.node->address(), result.status());
}

void Generation::OnNodeFailure(const std::string& node, const absl::Status& error) {
  const PrefillFault fault = FaultOf(error);
  // A node that shuts down sends its queue away as it should: a retry, not a failure.
  if (fault != PrefillFault::kDraining) uses_.metrics.CountPrefillFailure(error);
  std::unique_lock lock(mutex_);
  failure_ = MoreTelling(failure_, error);
  const absl::Status told = failure_;
  const size_t num_tried = tried_.size();
  lock.unlock();
  if (fault != PrefillFault::kNone && num_tried < kMostAttempts) {
    LogWarning(absl::StrCat("prefill node ", node, ": ", error.ToString()),
               {{"request_id", call_.id}, {"node", node}});
    uses_.queue.WaitAgain(*ticket_);
    if (Attempt(nullptr).ok()) return uses_.metrics.CountPrefillRetry(NameOf(fault));
  }
  Fail(responses_->cancelled() ? responses_->why_cancelled() : ForCaller(told));
}

absl::Status Generation::CheckFirstToken(const OutputToken& first_token) const {
  const int32_t token = first_token.token;
  const size_t vocab_tokens = uses_.model.config().vocab_tokens;
  const auto is_of_vocabulary = [vocab_tokens](int32_t id) {
    return id >= 0 && static_cast<size_t>(id) < vocab_tokens;
  };
  const std::vector<int32_t>& forced = request_.output.forced_tokens;
  if (!is_of_vocabulary(token)) {
    return absl::DataLossError(
        absl::StrCat("first_token is not of the vocabulary; wanted an id below ", vocab_tokens));
  }
  if (first_token.top.size() > request_.output.num_logprobs) {
    return absl::DataLossError(absl::StrCat("first_token.top has ", first_token.top.size(),
                                            " tokens; wanted at most ",
                                            request_.output.num_logprobs));
  }
  for (const TokenLogprob& likely : first_token.top) {
    if (!is_of_vocabulary(likely.token)) {
      return absl::DataLossError(absl::StrCat(
          "first_token.top has a token that is not of the vocabulary; wanted ids below ",
          vocab_tokens));
    }
  }
  if (!forced.empty() && token != forced[0]) {
    return absl::DataLossError("first_token is not the forced token of the request");
  }
  if (!Allows(request_.first_token_mask, token)) {
    return absl::DataLossError("first_token is none of allowed_tokens");
  }
  return absl::OkStatus();
}

void Generation::Decode(PrefillAttempt::Result result) {
  const absl::Duration first_token = MonotonicNow() - call_.arrival;
  uses_.metrics.ObserveFirstToken(first_token);
  *report_.mutable_kv() = result.kv;
  *report_.mutable_kv()->mutable_compression() = CompressionToProto(request_.compression);
  *report_.mutable_timing() = result.timing;
  report_.mutable_usage()->set_reused_tokens(result.reused_tokens);
  receive_time_ = result.receive_time;
  // Time spent on a lost node counts as waiting.
  report_.mutable_timing()->set_queue_ms(
      result.timing.queue_ms() + absl::ToDoubleMilliseconds(attempt_begin_ - call_.arrival));
  report_.mutable_timing()->set_first_token_ms(absl::ToDoubleMilliseconds(first_token));
  std::shared_ptr<Session> session;
  // The caller would drop the exception, and the request would never end.
  const absl::Status memory = UnlessOutOfMemory([&] {
    session = std::make_shared<Session>(
        request_.output, uses_.model.tokenizer.get(), std::move(result.cache), responses_,
        [self = shared_from_this()](const Session::End& end) { self->OnSessionEnd(end); });
    uses_.metrics.AddCache(report_, receive_time_);
    trace_.BeginDecode();
    session->CountPrompt(request_.tokens);
    session->HoldTo(std::move(matcher_), call_.client);
    session->Take(result.first_token);
    if (responses_->WantsAnnouncement()) responses_->Announce();
    return absl::OkStatus();
  });
  if (session == nullptr) {
    result.cache.reset();  // before the request's end is visible
    return Fail(memory);
  }
  if (!memory.ok() && !session->ended()) session->Fail(memory);
  session->ended() ? session->Close() : uses_.loop.Join(std::move(session));
}

void Generation::OnSessionEnd(const Session::End& end) {
  uses_.metrics.RemoveCache(report_.kv());
  const absl::Status memory = UnlessOutOfMemory([&] {
    Report(end);
    return absl::OkStatus();
  });
  if (memory.ok()) return;
  // As Fail, without what may have been counted and logged already.
  GiveBack();
  responses_->Fail(memory);
}

void Generation::Report(const Session::End& end) {
  trace_.EndDecode(end);
  report_.mutable_usage()->set_output_tokens(static_cast<uint32_t>(end.output_tokens));
  uses_.metrics.CountUsage(report_.usage(), call_.client);
  if (!end.status.ok()) return Fail(end.status);
  report_.set_finish_reason(end.reason);
  v1::Timing& timing = *report_.mutable_timing();
  timing.set_first_decode_ms(absl::ToDoubleMilliseconds(end.first_decode));
  timing.set_total_ms(absl::ToDoubleMilliseconds(MonotonicNow() - call_.arrival));
  if (end.decode > absl::ZeroDuration()) {
    timing.set_tokens_per_second(static_cast<double>(end.output_tokens - 1) /
                                 absl::ToDoubleSeconds(end.decode));
  }
  GiveBack();
  uses_.metrics.CountRequest(absl::OkStatus(), call_.client);
  uses_.recent.Add({.request_id = call_.id,
                    .ended = MonotonicNow(),
                    .report = report_,
                    .receive_time = receive_time_});
  LogEnd(absl::OkStatus());
  trace_.End(call_.id, absl::OkStatus(), report_);
  if (!request_.report_heads) report_.mutable_kv()->clear_layers();
  responses_->Finish(report_);
}

void Generation::Fail(const absl::Status& error) {
  GiveBack();
  const bool full = absl::IsResourceExhausted(error) && !RetryDelayOf(error).has_value();
  uses_.metrics.CountRequest(error, call_.client);
  LogEnd(error);
  trace_.End(call_.id, error, report_);
  responses_->Fail(full ? WithRetryDelay(error, kRetryDelay) : error);
}

void Generation::LogEnd(const absl::Status& status) const {
  const v1::KvReport& kv = report_.kv();
  const v1::Timing& timing = report_.timing();
  LogInfo("request ended",
          {{"request_id", call_.id},
           {"trace_id", trace_.context().trace_id},
           {"client", call_.client},
           {"code", absl::StatusCodeToString(status.code())},
           {"error", LoggedMessage(status)},
           {"prompt_tokens", request_.tokens.size()},
           {"reused_tokens", uint64_t{report_.usage().reused_tokens()}},
           {"output_tokens", uint64_t{report_.usage().output_tokens()}},
           {"kept_tokens", kv.kept_tokens()},
           {"uncompressed_bytes", kv.uncompressed_bytes()},
           {"shipped_bytes", kv.shipped_bytes()},
           {"queue_ms", timing.queue_ms()},
           {"prefill_ms", timing.prefill_ms()},
           {"compress_ms", timing.compress_ms()},
           {"transfer_ms", timing.transfer_ms()},
           {"first_token_ms", timing.first_token_ms()},
           {"total_ms", absl::ToDoubleMilliseconds(MonotonicNow() - call_.arrival)}});
}

}  // namespace kvship
