#include "decode_service/http/parse_turns.h"

#include <algorithm>

#include "base/clock.h"
#include "decode_service/prefill_fault.h"

namespace kvship {
namespace {

// How soon a wait notices that the client has gone.
constexpr absl::Duration kClientCheck = absl::Milliseconds(200);

}  // namespace

absl::StatusOr<ParseTurns::Turn> ParseTurns::Wait(size_t body_bytes, absl::Time deadline,
                                                  const std::function<bool()>& has_gone) {
  std::unique_lock lock(mutex_);
  const auto own = waiting_.insert(waiting_.end(), body_bytes);
  const auto may_begin = [&] {
    return own == waiting_.begin() && bytes_ + body_bytes <= most_bytes_;
  };
  absl::Status status = why_ended_;
  while (status.ok() && !may_begin()) {
    const absl::Time until = std::min(deadline, MonotonicNow() + kClientCheck);
    changed_.wait_until(lock, ToSteadyTime(until), [&] { return may_begin() || !why_ended_.ok(); });
    status = why_ended_;
    if (!status.ok() || may_begin()) break;
    lock.unlock();
    if (MonotonicNow() >= deadline) {
      status = DeadlinePassed();
    } else if (has_gone()) {
      status = absl::CancelledError("the client has gone");
    }
    lock.lock();
  }
  waiting_.erase(own);
  changed_.notify_all();  // the next one may begin beside this one, or in its place
  if (!status.ok()) return status;
  bytes_ += body_bytes;
  lock.unlock();  // as in ClientRequests::Enter
  return Turn(this, [this, body_bytes](void*) {
    std::lock_guard lock(mutex_);
    bytes_ -= body_bytes;
    changed_.notify_all();
  });
}

void ParseTurns::EndAll(const absl::Status& why) {
  std::lock_guard lock(mutex_);
  why_ended_.Update(why);
  changed_.notify_all();
}

}  // namespace kvship
