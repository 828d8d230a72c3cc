// The two passes of NcclExecutor, Advance and Watch: how communicators and transfers come forward.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "transport/nccl_executor.h"

namespace kvship {

using Phase = NcclLink::Phase;

void NcclExecutor::ConnectBy(const std::string& peer, uint64_t communicator, absl::Time deadline) {
  const Lock lock(mutex_);
  const absl::StatusOr<LinkPtr> link = Find(peer, communicator);
  if (!link.ok() || (*link)->phase >= Phase::kReady) return;
  (*link)->connect_deadline = std::min((*link)->connect_deadline, deadline);
  Changed();
}

absl::Time NcclExecutor::Watch() {
  Lock lock(mutex_);
  const absl::Time now = now_();
  absl::Time next = absl::InfiniteFuture();
  for (auto& [name, peer] : peers_) {
    const LinkPtr link = peer.link;
    if (link == nullptr) continue;
    const absl::Time deadline = link->NextDeadline();
    if (deadline <= now) {
      Fail(link,
           absl::DeadlineExceededError(absl::StrCat("deadline passed with ", link->Expired(now))));
    } else {
      next = std::min(next, deadline);
    }
  }
  AnswerAll(lock);
  return next;
}

bool NcclExecutor::Advance() {
  Lock lock(mutex_);
  std::vector<LinkPtr> links;
  for (const auto& [name, peer] : peers_) {
    if (peer.link != nullptr) links.push_back(peer.link);
  }
  bool look_again = false;
  for (const LinkPtr& link : links) look_again |= AdvanceLink(lock, link);
  AnswerAll(lock);
  return look_again;
}

bool NcclExecutor::AdvanceLink(Lock& lock, const LinkPtr& link) {
  switch (link->phase) {
    case Phase::kWaiting: return Connect(lock, link);
    case Phase::kConnecting: return WarmUp(lock, link);
    case Phase::kWarming:
    case Phase::kReady: return Pump(lock, link);
    case Phase::kClosed: return false;
  }
  return false;
}

bool NcclExecutor::Call(Lock& lock, const LinkPtr& link,
                        const std::function<absl::Status()>& call) {
  // The call may be long, and nobody's answer waits for it. With in_call set no abort begins.
  link->in_call = true;
  AnswerAll(lock);
  lock.unlock();
  const absl::Status status = call();
  lock.lock();
  link->in_call = false;
  if (link->phase == Phase::kClosed) {
    StartAbort(link);
    Changed();
  } else if (!status.ok()) {
    Fail(link, status);
  }
  return link->phase != Phase::kClosed;
}

bool NcclExecutor::IsIdleBut(const NcclLink& link) const {
  if (!closing_.empty()) return false;
  return std::all_of(peers_.begin(), peers_.end(), [&link](const auto& entry) {
    const NcclLink* other = entry.second.link.get();
    return other == nullptr || other == &link || other->is_quiet();
  });
}

size_t NcclExecutor::NumLinks() const {
  return static_cast<size_t>(std::count_if(peers_.begin(), peers_.end(), [](const auto& entry) {
    return entry.second.link != nullptr;
  }));
}

bool NcclExecutor::HasRoomFor(size_t num_links) const {
  return num_links * options_.communicator_bytes <= options_.max_bytes;
}

// Of those that do not connect; none if there are none.
NcclExecutor::LinkPtr NcclExecutor::LeastRecentlyUsed() const {
  LinkPtr oldest;
  for (const auto& [name, peer] : peers_) {
    if (peer.link == nullptr || peer.link == connecting_) continue;
    if (oldest == nullptr || peer.link->last_used < oldest->last_used) oldest = peer.link;
  }
  return oldest;
}

// False if a communicator has to go first, which then is on its way.
bool NcclExecutor::MakeRoom() {
  if (HasRoomFor(NumLinks())) return true;
  ++counters_.evictions;
  Close(LeastRecentlyUsed(), absl::UnavailableError("evicted"));
  return false;
}

bool NcclExecutor::Connect(Lock& lock, const LinkPtr& link) {
  if (!IsIdleBut(*link) || !MakeRoom()) return false;
  const bool open = Call(lock, link, [this, &link]() -> absl::Status {
    ASSIGN_OR_RETURN(link->communicator, library_->Connect(link->unique_id, link->rank));
    return absl::OkStatus();
  });
  if (open) link->phase = Phase::kConnecting;
  return open;
}

bool NcclExecutor::WarmUp(Lock& lock, const LinkPtr& link) {
  bool connected = false;
  const bool open = Call(lock, link, [&link, &connected] {
    const absl::StatusOr<bool> poll = link->communicator->Poll();
    if (!poll.ok() || !*poll) return poll.status();
    connected = true;
    return link->communicator->WarmUp();
  });
  if (open && connected) {
    link->Issue({.is_warm_up = true, .issued = now_()});
    link->phase = Phase::kWarming;
  }
  return open;
}

// One step of each kind: what was issued gets its mark, what has passed its mark is done, what is
// next is issued.
bool NcclExecutor::Pump(Lock& lock, const LinkPtr& link) {
  if (link->is_issuing()) {
    bool marked = false;
    const bool open = Call(lock, link, [&link, &marked, mark = link->next_mark()] {
      const absl::StatusOr<bool> poll = link->communicator->Poll();
      if (!poll.ok() || !*poll) return poll.status();
      marked = true;
      return link->communicator->Mark(mark);
    });
    if (!open) return false;
    if (marked) link->Marked();
  }
  while (link->has_marked()) {
    bool passed = false;
    const bool open = Call(lock, link, [&link, &passed, mark = link->oldest_mark()] {
      const absl::StatusOr<bool> state = link->communicator->Passed(mark);
      if (!state.ok()) return state.status();
      passed = *state;
      // While it waits, the communicator may have lost its peer.
      return passed ? absl::OkStatus() : link->communicator->Poll().status();
    });
    if (!open) return false;
    if (!passed) break;
    Done(link, link->Passed(now_()));
  }
  if (link->phase == Phase::kReady && closing_.empty()) {
    if (std::optional<NcclLink::Operation> next = link->TakeNext()) {
      const std::span<std::byte> bytes = next->transfer.bytes;
      next->issued = now_();
      link->Issue(*std::move(next));
      if (!Call(lock, link, [&] { return link->communicator->Move(bytes); })) return false;
    }
  }
  return link->is_issuing() || link->has_marked();
}

void NcclExecutor::Done(const LinkPtr& link, NcclLink::Operation operation) {
  Peer& peer = peers_[link->peer];
  if (operation.is_warm_up) {
    link->phase = Phase::kReady;
    connecting_ = nullptr;
    peer.had_one = true;
    LogInfo(absl::StrCat("NCCL with ", link->peer, " is ready"));
  } else {
    peer.num_failures = 0;
    ++counters_.transfers;
    counters_.transferred_bytes += operation.transfer.bytes.size();
    answers_.push_back({std::move(operation.transfer), absl::OkStatus()});
  }
  Changed();
}

}  // namespace kvship
