#include "prefill_service/prefill_scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "rpc/cache_messages.h"
#include "rpc/errors.h"
#include "rpc/wire_version.h"

namespace kvship {
namespace {

// How long the engine thread sleeps at most: it looks for overdue requests, and shows that it
// lives.
constexpr absl::Duration kLongestSleep = absl::Milliseconds(200);

// Before anything was measured.
constexpr absl::Duration kFirstRetryDelay = absl::Seconds(1);
constexpr absl::Duration kLongestRetryDelay = absl::Seconds(60);

// Weight of the newest request in the mean throughput.
constexpr double kNewestWeight = 0.3;

absl::Status CheckPositive(absl::string_view field, size_t value) {
  if (value > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is 0; wanted at least 1"));
}

absl::Status CheckPositive(absl::string_view field, absl::Duration value) {
  if (value > absl::ZeroDuration()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", absl::FormatDuration(value), "; wanted more than 0"));
}

}  // namespace

class PrefillScheduler::Request {
 public:
  PrefillTask task;
  std::shared_ptr<Channel> channel;  // shared with the call, which may end first
  State state = State::kQueued;
  bool cancelled = false;
  bool ended = false;
  size_t told_place = SIZE_MAX;
  absl::Time arrived;
  absl::Time became_ready;
  // While the outbox is full: since when it has this many bytes.
  absl::Time stalled_since = absl::InfiniteFuture();
  size_t stalled_bytes = 0;
  std::unique_ptr<PrefillJob> job;  // from the first step on; the engine thread's
};

absl::Status PrefillScheduler::Options::Validate() const {
  for (const absl::Status& status :
       {CheckPositive("max_queue_requests", max_queue_requests),
        CheckPositive("max_queue_tokens", max_queue_tokens),
        CheckPositive("max_active_requests", max_active_requests),
        CheckPositive("max_outbox_bytes", max_outbox_bytes),
        CheckPositive("go_timeout", go_timeout), CheckPositive("stall_timeout", stall_timeout),
        CheckPositive("stuck_timeout", stuck_timeout)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

PrefillScheduler::PrefillScheduler(PrefillEngine& engine, PrefillMetrics& metrics,
                                   const Options& options)
    : engine_(engine),
      metrics_(metrics),
      options_(options),
      alive_(std::chrono::steady_clock::now()) {
  thread_ = std::thread([this] { Run(); });
}

PrefillScheduler::~PrefillScheduler() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    woken_ = true;
  }
  wake_.notify_all();
  thread_.join();
  for (const auto& request : requests_) {
    request->channel->Close(absl::UnavailableError("the prefill node has shut down"));
  }
}

absl::StatusOr<std::shared_ptr<PrefillScheduler::Request>> PrefillScheduler::Submit(
    PrefillTask task, std::shared_ptr<Channel> channel) {
  const size_t num_tokens = task.tokens.size();
  auto request = std::make_shared<Request>();
  request->task = std::move(task);
  request->channel = std::move(channel);
  request->arrived = absl::Now();
  std::lock_guard lock(mutex_);
  if (draining_) return absl::UnavailableError("the prefill node is shutting down");
  if (requests_.size() >= options_.max_queue_requests ||
      (!requests_.empty() && admitted_tokens_ + num_tokens > options_.max_queue_tokens)) {
    return WithRetryDelay(
        absl::ResourceExhaustedError(absl::StrCat(
            "the prefill queue holds ", requests_.size(), " requests of ",
            options_.max_queue_requests, " and ", admitted_tokens_, " tokens of ",
            options_.max_queue_tokens, "; a prompt of ", num_tokens, " does not fit now")),
        RetryDelay());
  }
  requests_.push_back(request);
  admitted_tokens_ += num_tokens;
  SendReady(request->arrived);
  TellPlaces();
  UpdateGauges();
  return request;
}

absl::Status PrefillScheduler::Go(Request& request) {
  std::lock_guard lock(mutex_);
  if (request.ended) return absl::OkStatus();  // its status is on the way
  if (request.state != State::kReady) {
    return absl::FailedPreconditionError(request.state == State::kQueued
                                             ? "Go came before Ready; wanted it after"
                                             : "Go came a second time; wanted it once");
  }
  request.state = State::kRunning;
  woken_ = true;
  wake_.notify_one();
  return absl::OkStatus();
}

void PrefillScheduler::Cancel(Request& request) {
  std::lock_guard lock(mutex_);
  request.cancelled = true;
  woken_ = true;
  wake_.notify_one();
}

void PrefillScheduler::NoticeSent() {
  std::lock_guard lock(mutex_);
  woken_ = true;
  wake_.notify_one();
}

void PrefillScheduler::StartDraining() {
  std::lock_guard lock(mutex_);
  draining_ = true;
  woken_ = true;
  wake_.notify_one();
}

absl::Status PrefillScheduler::CheckProgress() const {
  std::lock_guard lock(mutex_);
  const absl::Duration silent = absl::FromChrono(std::chrono::steady_clock::now() - alive_);
  if (silent < options_.stuck_timeout) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrFormat("the engine has been in one step for %.0f s", absl::ToDoubleSeconds(silent)));
}

void PrefillScheduler::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    alive_ = std::chrono::steady_clock::now();
    const absl::Time now = absl::Now();
    WatchReaders(now);
    EndOverdue(now);
    SendReady(now);
    TellPlaces();
    UpdateGauges();
    if (Request* next = NextToRun()) {
      RunStep(*next, lock);
      continue;
    }
    wake_.wait_for(lock, absl::ToChronoMilliseconds(kLongestSleep), [this] { return woken_; });
    woken_ = false;
  }
}

void PrefillScheduler::RunStep(Request& request, std::unique_lock<std::mutex>& lock) {
  // The request cannot go while the lock is open: only this thread removes requests.
  lock.unlock();
  absl::Status status;
  if (request.job == nullptr) {
    auto job = PrefillJob::Create(engine_, metrics_, request.task, *request.channel,
                                  absl::Now() - request.arrived);
    status = job.status();
    if (job.ok()) request.job = *std::move(job);
  }
  if (status.ok()) status = request.job->Step();
  lock.lock();
  if (!status.ok()) {
    LogError(absl::StrCat("a prefill step failed: ", status.ToString()));
    End(request, absl::InternalError(status.message()));
  } else if (request.job->done()) {
    const PrefillJob::Totals& totals = request.job->totals();
    const double seconds = absl::ToDoubleSeconds(totals.prefill_time + totals.compress_time);
    const double newest = request.task.tokens.size() / std::max(seconds, 1e-6);
    tokens_per_second_ = tokens_per_second_ == 0
                             ? newest
                             : kNewestWeight * newest + (1 - kNewestWeight) * tokens_per_second_;
    End(request, absl::OkStatus());
  }
}

bool PrefillScheduler::Blocked(const Request& request) const {
  return request.channel->unsent_bytes() > options_.max_outbox_bytes;
}

PrefillScheduler::Request* PrefillScheduler::NextToRun() {
  for (const auto& request : requests_) {
    if (request->state == State::kRunning && !Blocked(*request)) return request.get();
  }
  return nullptr;
}

void PrefillScheduler::WatchReaders(absl::Time now) {
  for (const auto& request : requests_) {
    const size_t unsent_bytes = request->channel->unsent_bytes();
    if (unsent_bytes <= options_.max_outbox_bytes) {
      request->stalled_since = absl::InfiniteFuture();
    } else if (request->stalled_since == absl::InfiniteFuture() ||
               unsent_bytes != request->stalled_bytes) {
      request->stalled_since = now;
      request->stalled_bytes = unsent_bytes;
    }
  }
}

void PrefillScheduler::EndOverdue(absl::Time now) {
  for (size_t i = requests_.size(); i-- > 0;) {  // backwards: End removes
    const std::shared_ptr<Request> request = requests_[i];
    if (request->cancelled) {
      End(*request, absl::CancelledError("the peer is gone"));
    } else if (draining_ && request->state == State::kQueued) {
      End(*request, absl::UnavailableError("the prefill node is shutting down"));
    } else if (request->state == State::kReady &&
               now - request->became_ready > options_.go_timeout) {
      End(*request,
          absl::DeadlineExceededError(absl::StrCat(
              "Go did not come within ", absl::FormatDuration(options_.go_timeout), " of Ready")));
    } else if (now - request->stalled_since > options_.stall_timeout) {
      End(*request, absl::AbortedError(absl::StrCat("the reader took none of ",
                                                    request->stalled_bytes, " unsent bytes for ",
                                                    absl::FormatDuration(options_.stall_timeout))));
    }
  }
}

// One request beyond the one that runs is told Ready, so that its client's answer is there when its
// turn comes; blocked ones do not count.
void PrefillScheduler::SendReady(absl::Time now) {
  size_t num_active = 0;
  size_t num_unblocked = 0;
  for (const auto& request : requests_) {
    if (request->state == State::kQueued) {
      if (draining_ || num_active >= options_.max_active_requests || num_unblocked >= 2) return;
      request->state = State::kReady;
      request->became_ready = now;
      v1::PrefillResponse response;
      v1::PrefillReady& ready = *response.mutable_ready();
      *ready.mutable_wire_version() = WireVersionProto();
      ready.add_transports(kGrpcTransport);
      *ready.mutable_plan() = PlanToProto(request->task.plan);
      request->channel->SendMessage(response.SerializeAsString());
    }
    ++num_active;
    if (request->state != State::kRunning || !Blocked(*request)) ++num_unblocked;
  }
}

void PrefillScheduler::TellPlaces() {
  for (size_t place = 0; place < requests_.size(); ++place) {
    Request& request = *requests_[place];
    if (request.state != State::kQueued || request.told_place == place) continue;
    request.told_place = place;
    v1::PrefillResponse response;
    response.mutable_queued()->set_place(static_cast<uint32_t>(place));
    request.channel->SendMessage(response.SerializeAsString());
  }
}

void PrefillScheduler::End(Request& request, absl::Status status) {
  const auto at =
      std::find_if(requests_.begin(), requests_.end(),
                   [&request](const auto& candidate) { return candidate.get() == &request; });
  const std::shared_ptr<Request> ended = *at;
  requests_.erase(at);
  admitted_tokens_ -= ended->task.tokens.size();
  ended->ended = true;
  LogEnd(*ended, status);
  ended->job.reset();
  metrics_.CountRequest(status.code());
  UpdateGauges();
  ended->channel->Close(std::move(status));
}

void PrefillScheduler::LogEnd(const Request& request, const absl::Status& status) {
  const absl::Duration age = absl::Now() - request.arrived;
  const PrefillJob::Totals totals =
      request.job != nullptr ? request.job->totals() : PrefillJob::Totals{.queue_time = age};
  LogInfo("request ended", {{"request_id", request.task.request_id},
                            {"code", absl::StatusCodeToString(status.code())},
                            {"error", LoggedMessage(status)},
                            {"prompt_tokens", request.task.tokens.size()},
                            {"kept_tokens", totals.kept_tokens},
                            {"uncompressed_bytes", request.task.plan.uncompressed_bytes()},
                            {"shipped_bytes", totals.shipped_bytes},
                            {"queue_ms", absl::ToDoubleMilliseconds(totals.queue_time)},
                            {"prefill_ms", absl::ToDoubleMilliseconds(totals.prefill_time)},
                            {"compress_ms", absl::ToDoubleMilliseconds(totals.compress_time)},
                            {"total_ms", absl::ToDoubleMilliseconds(age)}});
}

// When the work that is admitted now will be done, by the throughput of late.
absl::Duration PrefillScheduler::RetryDelay() const {
  if (tokens_per_second_ == 0) return kFirstRetryDelay;
  const absl::Duration backlog =
      absl::Seconds(static_cast<double>(admitted_tokens_) / tokens_per_second_);
  return std::clamp(backlog, kFirstRetryDelay, kLongestRetryDelay);
}

void PrefillScheduler::UpdateGauges() {
  size_t num_queued = 0;
  size_t outbox_bytes = 0;
  for (const auto& request : requests_) {
    num_queued += request->state == State::kQueued;
    outbox_bytes += request->channel->unsent_bytes();
  }
  metrics_.queue_requests.Set(static_cast<double>(num_queued));
  metrics_.active_requests.Set(static_cast<double>(requests_.size() - num_queued));
  metrics_.queue_tokens.Set(static_cast<double>(admitted_tokens_));
  metrics_.outbox_bytes.Set(static_cast<double>(outbox_bytes));
}

}  // namespace kvship
