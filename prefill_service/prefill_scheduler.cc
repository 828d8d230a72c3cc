#include "prefill_service/prefill_scheduler.h"

#include <pthread.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/start_thread.h"
#include "base/status_macros.h"
#include "prefill_service/prefill_request.h"
#include "rpc/errors.h"
#include "service/option_range.h"

namespace kvship {
namespace {

absl::Status ShuttingDown() {
  return WithReason(
      absl::UnavailableError("the prefill node is shutting down; send the request again"),
      kDraining);
}

}  // namespace

absl::Status PrefillScheduler::Options::Validate() const {
  for (const absl::Status& status :
       {CheckPositive("max_queue_requests", max_queue_requests),
        CheckPositive("max_queue_tokens", max_queue_tokens),
        CheckPositive("max_active_requests", max_active_requests),
        CheckPositive("max_active_bytes", max_active_bytes),
        CheckPositive("max_outbox_bytes", max_outbox_bytes),
        CheckPositive("max_unsent_bytes", max_unsent_bytes),
        CheckPositive("go_timeout", go_timeout), CheckPositive("stall_timeout", stall_timeout),
        CheckStuckTimeout("stuck_timeout", stuck_timeout)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

PrefillScheduler::PrefillScheduler(PromptReader& reader, PrefillMetrics& metrics,
                                   const Options& options)
    : reader_(reader), metrics_(metrics), options_(options) {
  thread_ = StartThread("the prefill engine", [this] { Run(); });
}

PrefillScheduler::~PrefillScheduler() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    Wake();
  }
  thread_.join();
  for (const auto& request : requests_) {
    request->channel->Close(ShuttingDown());
  }
}

absl::StatusOr<std::shared_ptr<PrefillScheduler::Request>> PrefillScheduler::Submit(
    PrefillTask task, std::shared_ptr<FrameChannel> channel) {
  RETURN_IF_ERROR(reader_.Check(task));
  const size_t num_tokens = task.tokens.size();
  const size_t run_bytes = reader_.BytesFor(task);
  RETURN_IF_ERROR(CheckRunBytes(num_tokens, run_bytes));
  auto request =
      std::make_shared<Request>(std::move(task), run_bytes, std::move(channel), MonotonicNow());
  std::lock_guard lock(mutex_);
  if (draining_) return ShuttingDown();
  if (requests_.size() >= options_.max_queue_requests ||
      (admitted_tokens_ > 0 && admitted_tokens_ + num_tokens > options_.max_queue_tokens)) {
    return WithRetryDelay(
        absl::ResourceExhaustedError(absl::StrCat(
            "the prefill queue holds ", requests_.size(), " requests of ",
            options_.max_queue_requests, " and ", admitted_tokens_, " tokens of ",
            options_.max_queue_tokens, "; a prompt of ", num_tokens, " does not fit now")),
        rate_.RetryDelay(UnreadTokens()));
  }
  requests_.push_back(request);
  admitted_tokens_ += num_tokens;
  Sort();
  SendReady(request->arrived);
  if (request->is_queued()) request->TellPlace(PlaceOf(*request));
  UpdateGauges();
  Wake();  // to estimate it
  return request;
}

absl::Status PrefillScheduler::CheckRunBytes(size_t num_tokens, size_t run_bytes) const {
  if (run_bytes <= options_.max_active_bytes) return absl::OkStatus();
  // With a reason, because another node may have more memory.
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        "a prompt of ", num_tokens, " tokens takes ", run_bytes,
                        " bytes while it is read, with what its compression observes; wanted at "
                        "most the ",
                        options_.max_active_bytes, " of the prefill node's --max_active_bytes")),
                    kContextLengthExceeded);
}

absl::Status PrefillScheduler::Go(Request& request) {
  std::lock_guard lock(mutex_);
  if (request.ended) return absl::OkStatus();  // its status is on the way
  if (!request.awaits_go()) {
    return absl::DataLossError(request.state == Request::State::kQueued
                                   ? "go came before ready; wanted it after"
                                   : "go came a second time; wanted it once");
  }
  request.state = Request::State::kRunning;
  request.go_time = MonotonicNow();
  Wake();
  return absl::OkStatus();
}

void PrefillScheduler::Cancel(Request& request, const absl::Status& why) {
  std::lock_guard lock(mutex_);
  if (request.ended) return;
  request.cancelled.Update(why);
  Wake();
}

void PrefillScheduler::NoticeSent() {
  std::lock_guard lock(mutex_);
  EndSent();
  Wake();
}

void PrefillScheduler::StartDraining() {
  std::lock_guard lock(mutex_);
  draining_ = true;
  Wake();
}

void PrefillScheduler::EndAll() {
  std::lock_guard lock(mutex_);
  ends_all_ = true;
  Wake();
}

absl::Status PrefillScheduler::CheckProgress() const {
  return heartbeat_.Check("the engine", options_.stuck_timeout);
}

size_t PrefillScheduler::admitted_tokens() const {
  std::lock_guard lock(mutex_);
  return admitted_tokens_;
}

size_t PrefillScheduler::unread_tokens() const {
  std::lock_guard lock(mutex_);
  return UnreadTokens();
}

std::vector<PrefillScheduler::Prompt> PrefillScheduler::Prompts() const {
  std::vector<Prompt> prompts;
  std::lock_guard lock(mutex_);
  for (const auto& request : requests_) {
    prompts.push_back({.request_id = request->task.request_id,
                       .prompt_tokens = request->num_tokens(),
                       .state = request->state,
                       .fraction = request->fraction(),
                       .age = MonotonicNow() - request->arrived});
  }
  return prompts;
}

void PrefillScheduler::Run() {
  pthread_setname_np(pthread_self(), "prefill_engine");
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const absl::Time now = MonotonicNow();
    heartbeat_.Beat();
    for (const auto& request : requests_) request->WatchReader(options_.max_outbox_bytes, now);
    EndOverdue(now);
    Estimate();
    Sort();
    SendReady(now);
    UpdateGauges();
    if (const std::shared_ptr<Request> next = NextToRun()) {
      RunStep(next, lock);
      continue;
    }
    // The timeout is for overdue requests.
    const bool awaits_go = std::any_of(requests_.begin(), requests_.end(),
                                       [](const auto& request) { return request->awaits_go(); });
    wake_.wait_for(lock, absl::ToChronoMilliseconds(awaits_go ? kIdlePatience : Heartbeat::kPeriod),
                   [this] { return woken_; });
    woken_ = false;
  }
}

void PrefillScheduler::RunStep(const std::shared_ptr<Request>& first,
                               std::unique_lock<std::mutex>& lock) {
  const Requests pack = first->job == nullptr ? PackFrom(first) : Requests();
  // Requests being read cannot end while the lock is released: only this thread ends them.
  lock.unlock();
  std::shared_ptr<PrefillJob> job = first->job;
  absl::Status status = UnlessOutOfMemory([&]() -> absl::Status {
    if (!pack.empty()) {
      ASSIGN_OR_RETURN(job, BeginJob(pack));
    }
    return job->Step();
  });
  if (!status.ok() && !reader_.CheckDevice().ok()) heartbeat_.LoseDevice();
  metrics_.prefix_cache_bytes.Set(static_cast<double>(reader_.prefix_cache_bytes()));
  lock.lock();
  if (!status.ok()) {
    LogError(absl::StrCat("a prefill step failed: ", status.ToString()));
    if (!absl::IsResourceExhausted(status)) status = absl::InternalError(status.message());
  }
  Requests members = pack;
  if (job != nullptr) {
    for (const auto& request : pack) request->job = job;
    members.clear();
    std::copy_if(requests_.begin(), requests_.end(), std::back_inserter(members),
                 [&](const auto& request) { return request->job == job; });
    for (const auto& request : members) request->remaining_tokens = job->remaining_tokens();
    if (status.ok() && !job->done()) return;
    if (status.ok()) {
      rate_.Note(job->tokens_to_read(), job->num_tokens() - job->tokens_to_read(),
                 job->step_time());
    }
  }
  for (const auto& request : members) {
    const absl::Status end = status.ok() ? request->shipment->failed() : status;
    if (end.ok()) {
      BeginSending(*request);
    } else {
      End(*request, end);
    }
  }
  EndSent();
}

void PrefillScheduler::BeginSending(Request& request) {
  request.state = Request::State::kSending;
  request.job.reset();
  admitted_tokens_ -= request.num_tokens();
}

absl::StatusOr<std::shared_ptr<PrefillJob>> PrefillScheduler::BeginJob(const Requests& requests) {
  std::vector<const PrefillTask*> tasks;
  std::vector<PrefillShipment*> shipments;
  for (const auto& request : requests) {
    request->shipment =
        std::make_unique<PrefillShipment>(metrics_, request->task, *request->channel,
                                          MonotonicNow() - request->arrived, request->go_time);
    tasks.push_back(&request->task);
    shipments.push_back(request->shipment.get());
  }
  ASSIGN_OR_RETURN(std::unique_ptr<PromptReading> reading, reader_.Begin(tasks));
  return std::make_shared<PrefillJob>(metrics_, std::move(reading), std::move(shipments));
}

void PrefillScheduler::EndSent() {
  for (size_t i = requests_.size(); i-- > 0;) {  // backwards: End removes
    const std::shared_ptr<Request> request = requests_[i];
    if (request->is_sending() && request->channel->unsent_bytes() == 0) {
      End(*request, absl::OkStatus());
    }
  }
}

void PrefillScheduler::EndOverdue(absl::Time now) {
  for (size_t i = requests_.size(); i-- > 0;) {  // as above
    const std::shared_ptr<Request> request = requests_[i];
    if (!request->cancelled.ok()) {
      End(*request, request->cancelled);
    } else if (ends_all_ || (draining_ && request->is_queued())) {
      End(*request, ShuttingDown());
    } else if (request->awaits_go() && now - request->became_ready > options_.go_timeout) {
      End(*request,
          absl::AbortedError(absl::StrCat("Go did not come within ",
                                          absl::FormatDuration(options_.go_timeout), " of Ready")));
    } else if (now - request->stalled_since > options_.stall_timeout) {
      End(*request, absl::AbortedError(absl::StrCat("the reader took no whole message of ",
                                                    request->stalled_bytes, " unsent bytes for ",
                                                    absl::FormatDuration(options_.stall_timeout))));
    }
  }
}

size_t PrefillScheduler::PlaceOf(const Request& request) const {
  size_t place = 0;
  for (auto at = requests_.begin(); at->get() != &request; ++at) place += !(*at)->is_sending();
  return place;
}

void PrefillScheduler::End(Request& request, absl::Status status) {
  const auto at =
      std::find_if(requests_.begin(), requests_.end(),
                   [&request](const auto& candidate) { return candidate.get() == &request; });
  const std::shared_ptr<Request> ended = *at;
  requests_.erase(at);
  if (!ended->is_sending()) admitted_tokens_ -= ended->num_tokens();
  ended->ended = true;
  ended->TellEnd(status);
  if (ended->job != nullptr) ended->job->Forget(*ended->shipment);
  ended->job.reset();
  ended->shipment.reset();
  metrics_.CountRequest(status.code());
  UpdateGauges();
  ended->channel->Close(std::move(status));
}

void PrefillScheduler::UpdateGauges() {
  size_t num_queued = 0;
  size_t num_active = 0;
  for (const auto& request : requests_) {
    num_queued += request->is_queued();
    num_active += request->is_active();
  }
  metrics_.queue_requests.Set(static_cast<double>(num_queued));
  metrics_.active_requests.Set(static_cast<double>(num_active));
  metrics_.queue_tokens.Set(static_cast<double>(admitted_tokens_));
  metrics_.unread_tokens.Set(static_cast<double>(UnreadTokens()));
  metrics_.outbox_bytes.Set(static_cast<double>(UnsentBytes()));
  metrics_.sending_requests.Set(static_cast<double>(requests_.size() - num_queued - num_active));
}

}  // namespace kvship
