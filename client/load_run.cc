#include "client/load_run.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/random.h"

namespace kvship {
namespace {

constexpr absl::Duration kProgressPeriod = absl::Seconds(1);

}  // namespace

// One request on its way; deletes itself at its end.
class LoadRun::Call final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(LoadRun& run, size_t index, absl::Time planned, v1::GenerateRequest request)
      : run_(run), index_(index), planned_(planned), request_(std::move(request)) {
    run.client_.SetContext(run.options_.timeout, &context_);
    run.client_.stub().async()->Generate(&context_, &request_, this);
    StartRead(&response_);
    {
      // Threads that gRPC hands the call to lock this first, and so see all that was made.
      std::lock_guard lock(mutex_);
    }
    StartCall();
  }

  void OnReadDone(bool ok) override {
    std::lock_guard lock(mutex_);
    if (!ok) return;
    const absl::Time now = MonotonicNow();
    if (response_.has_output()) Note(now, response_.output().tokens_size());
    if (response_.has_report()) {
      result_.prompt_tokens = response_.report().usage().prompt_tokens();
      result_.reused_tokens = response_.report().usage().reused_tokens();
      result_.output_tokens = response_.report().usage().output_tokens();
      result_.uncompressed_bytes = response_.report().kv().uncompressed_bytes();
      result_.shipped_bytes = response_.report().kv().shipped_bytes();
    }
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    LoadRun& run = run_;
    const size_t index = index_;
    LoadRequestResult result;
    {
      std::lock_guard lock(mutex_);
      result = std::move(result_);
    }
    result.status = run.client_.EndOf(status, run.options_.timeout, /*stopped=*/false);
    result.total = MonotonicNow() - planned_;
    // First, as the context holds the channel: whoever drops that last waits for gRPC's threads,
    // and this is one of them.
    delete this;
    run.Finished(index, std::move(result));
  }

 private:
  // Of tokens that come together the first was waited for, the others came at once.
  void Note(absl::Time now, int num_tokens) {
    if (num_tokens == 0) return;
    const bool is_first = last_token_ == absl::InfinitePast();
    if (is_first) result_.first_token = now - planned_;
    if (!is_first) result_.between_tokens.push_back(now - last_token_);
    result_.between_tokens.resize(result_.between_tokens.size() + num_tokens - 1);
    last_token_ = now;
  }

  LoadRun& run_;
  const size_t index_;
  const absl::Time planned_;
  const v1::GenerateRequest request_;
  grpc::ClientContext context_;

  std::mutex mutex_;
  v1::GenerateResponse response_;
  LoadRequestResult result_;
  absl::Time last_token_ = absl::InfinitePast();
};

std::vector<LoadRequestResult> LoadRun::Run(
    const std::vector<PlannedRequest>& plan,
    const std::function<void(const Progress&)>& on_progress) {
  results_.assign(plan.size(), {});
  begin_ = told_ = MonotonicNow();
  for (size_t i = 0; i < plan.size(); ++i) {
    if (options_.closed_loop) {
      WaitUntil([this](absl::Time) { return progress_.num_running < options_.max_in_flight; },
                absl::InfiniteFuture(), on_progress);
      Send(plan[i], i, MonotonicNow());
      continue;
    }
    const absl::Time at = begin_ + plan[i].at;
    WaitUntil([at](absl::Time now) { return now >= at; }, at, on_progress);
    Send(plan[i], i, at);
  }
  WaitUntil([this](absl::Time) { return progress_.num_running == 0; }, absl::InfiniteFuture(),
            on_progress);
  return std::move(results_);
}

void LoadRun::WaitUntil(const std::function<bool(absl::Time)>& done, absl::Time wake,
                        const std::function<void(const Progress&)>& on_progress) {
  std::unique_lock lock(mutex_);
  for (absl::Time now = MonotonicNow(); !done(now); now = MonotonicNow()) {
    if (now >= told_ + kProgressPeriod) {
      told_ = now;
      Progress progress = progress_;
      progress.since_begin = now - begin_;
      lock.unlock();
      on_progress(progress);
      lock.lock();
      continue;
    }
    changed_.wait_for(lock,
                      absl::ToChronoNanoseconds(std::min(wake, told_ + kProgressPeriod) - now));
  }
}

void LoadRun::Send(const PlannedRequest& planned, size_t index, absl::Time at) {
  {
    std::lock_guard lock(mutex_);
    ++progress_.num_sent;
    if (progress_.num_running >= options_.max_in_flight) {
      ++progress_.num_failed;
      results_[index].status =
          absl::ResourceExhaustedError("not sent: too many requests are under way");
      return;
    }
    ++progress_.num_running;
  }
  v1::GenerateRequest request = options_.request;
  if (planned.output_tokens > 0) {
    request.set_max_tokens(static_cast<uint32_t>(planned.output_tokens));
  }
  if (request.input_case() == v1::GenerateRequest::INPUT_NOT_SET) {
    const std::vector<uint32_t> ids =
        PlannedPrompt(planned, options_.seed, index, options_.vocab_tokens);
    request.mutable_tokens()->mutable_ids()->Add(ids.begin(), ids.end());
  }
  new Call(*this, index, at, std::move(request));  // deletes itself
}

void LoadRun::Finished(size_t index, LoadRequestResult result) {
  std::lock_guard lock(mutex_);
  --progress_.num_running;
  ++(result.status.ok() ? progress_.num_succeeded : progress_.num_failed);
  results_[index] = std::move(result);
  changed_.notify_all();
}

}  // namespace kvship
