#include "decode_service/http/http_generation.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"

namespace kvship {
namespace {

// How soon a client that has gone is noticed.
constexpr absl::Duration kClientCheck = absl::Milliseconds(200);

}  // namespace

HttpGeneration::HttpGeneration(const Generation::Uses& uses, Generation::Call call,
                               const v1::GenerateRequest& request, HttpConnection& connection,
                               const std::atomic<bool>& stopping)
    : deadline_(call.deadline),
      connection_(connection),
      stopping_(stopping),
      generation_(std::make_shared<Generation>(uses, std::move(call))) {
  generation_->responses().OnResponse([signal = signal_] {
    {
      std::lock_guard lock(signal->mutex);
      signal->given = true;
    }
    signal->changed.notify_one();
  });
  generation_->Start(request);
}

HttpGeneration::~HttpGeneration() {
  v1::GenerateResponse message;
  absl::Status end;
  if (!ended_) generation_->Cancel();
  cancelled_ = true;
  while (!ended_) Take(absl::InfiniteFuture(), &message, &end);
}

ResponseBuffer::Next HttpGeneration::Take(absl::Time until, v1::GenerateResponse* message,
                                          absl::Status* end) {
  while (true) {
    const ResponseBuffer::Next next = generation_->responses().Take(message, end);
    ended_ |= next == ResponseBuffer::Next::kEnd;
    if (next != ResponseBuffer::Next::kNothing || MonotonicNow() >= until) return next;
    CancelIfPointless();
    Wait(until);
  }
}

void HttpGeneration::CancelIfPointless() {
  if (cancelled_) return;
  cancelled_ = stopping_ || MonotonicNow() >= deadline_ || connection_.client_has_gone();
  if (cancelled_) generation_->Cancel();
}

void HttpGeneration::Wait(absl::Time until) {
  until = std::min(until, MonotonicNow() + kClientCheck);
  if (!cancelled_) until = std::min(until, deadline_);
  std::unique_lock lock(signal_->mutex);
  signal_->changed.wait_until(lock, ToSteadyTime(until), [this] { return signal_->given; });
  signal_->given = false;
}

}  // namespace kvship
