#include "transport/nccl_executor.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

using Phase = NcclLink::Phase;

// As NcclOptions::max_backoff, of a peer that cannot be connected with: each try may cost NCCL a
// thread and some memory for good.
constexpr absl::Duration kMaxConnectBackoff = absl::Hours(1);
// A communicator that was used so lately does not go for another's sake: more peers than there is
// room for would only ever connect.
constexpr absl::Duration kMinResidency = absl::Seconds(30);

absl::Status NotReady(const std::string& peer, const char* why) {
  return absl::UnavailableError(absl::StrCat("NCCL with ", peer, ": ", why));
}

NcclState StateOf(const NcclLink* link, absl::Time retry_time, absl::Time now) {
  if (link == nullptr) return now < retry_time ? NcclState::kFailed : NcclState::kAbsent;
  return link->phase == Phase::kReady ? NcclState::kReady : NcclState::kConnecting;
}

}  // namespace

absl::Status NcclOptions::Validate() const {
  if (communicator_bytes == 0 || communicator_bytes > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("communicator_bytes ", communicator_bytes,
                                                   ": wanted 1 to max_bytes, ", max_bytes));
  }
  if (connect_timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "connect_timeout ", absl::FormatDuration(connect_timeout), ": wanted more than 0"));
  }
  if (min_backoff <= absl::ZeroDuration() || max_backoff < min_backoff) {
    return absl::InvalidArgumentError(absl::StrCat(
        "min_backoff ", absl::FormatDuration(min_backoff), ": wanted more than 0 and at most ",
        "max_backoff, ", absl::FormatDuration(max_backoff)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<NcclExecutor>> NcclExecutor::Create(
    std::shared_ptr<NcclLibrary> library, const NcclOptions& options, Clock now,
    RunAside run_aside) {
  RETURN_IF_ERROR(options.Validate());
  return std::shared_ptr<NcclExecutor>(
      new NcclExecutor(std::move(library), options, std::move(now), std::move(run_aside)));
}

NcclExecutor::NcclExecutor(std::shared_ptr<NcclLibrary> library, const NcclOptions& options,
                           Clock now, RunAside run_aside)
    : library_(std::move(library)),
      options_(options),
      now_(std::move(now)),
      run_aside_(std::move(run_aside)) {}

// Whether new transfers, or another connect, may begin on this GPU. `own` is the link that asks.
absl::Status NcclExecutor::Door(const NcclLink* own) const {
  RETURN_IF_ERROR(shut_down_);
  if (!closing_.empty()) {
    return NotReady(closing_.front()->peer, "being aborted, and nothing begins meanwhile");
  }
  if (connecting_ != nullptr && connecting_.get() != own) {
    return NotReady(connecting_->peer, "being connected, and nothing else begins meanwhile");
  }
  return absl::OkStatus();
}

absl::Status NcclExecutor::MayConnect(const std::string& peer) const {
  const Lock lock(mutex_);
  return MayConnectLocked(peer);
}

absl::Status NcclExecutor::MayConnectLocked(const std::string& peer) const {
  RETURN_IF_ERROR(Door(nullptr));
  const absl::Time now = now_();
  const auto found = peers_.find(peer);
  if (found != peers_.end()) {
    if (now < found->second.retry_time) {
      return NotReady(peer, "failed lately, not to be connected yet");
    }
    if (found->second.link != nullptr) return absl::OkStatus();  // whose place it takes
  }
  if (!HasRoomFor(NumLinks() + 1) && now < LeastRecentlyUsed()->last_used + kMinResidency) {
    return NotReady(peer, "no room beside communicators that were used lately");
  }
  return absl::OkStatus();
}

absl::Status NcclExecutor::MayInviteLocked(const std::string& peer) const {
  RETURN_IF_ERROR(MayConnectLocked(peer));
  const auto found = peers_.find(peer);
  const NcclLink* own = found == peers_.end() ? nullptr : found->second.link.get();
  if (own == nullptr || own->connect_deadline <= now_()) return absl::OkStatus();
  return NotReady(peer, "invited lately, not to be invited again yet");
}

void NcclExecutor::AddLink(const std::string& peer, const NcclUniqueId& id, int rank) {
  std::erase_if(peers_, [now = now_()](const auto& other) {
    return other.second.link == nullptr && other.second.forget_time <= now;
  });
  Peer& entry = peers_[peer];
  if (entry.link != nullptr) {
    Close(std::exchange(entry.link, nullptr), NotReady(peer, "replaced by a new communicator"));
  }
  entry.link = std::make_shared<NcclLink>(peer, id, rank, now_() + options_.connect_timeout);
  connecting_ = entry.link;
  ++counters_.connects;
  if (entry.had_one) ++counters_.rebuilds;
  Changed();
}

absl::StatusOr<NcclUniqueId> NcclExecutor::Invite(const std::string& peer) {
  Lock lock(mutex_);
  RETURN_IF_ERROR(MayInviteLocked(peer));
  if (spare_ids_.empty()) {
    lock.unlock();
    ASSIGN_OR_RETURN(const NcclUniqueId drawn, library_->NewUniqueId());
    lock.lock();
    // NCCL keeps a thread for each until two ranks have met by it.
    spare_ids_.push_back(drawn);
    RETURN_IF_ERROR(MayInviteLocked(peer));
  }
  const NcclUniqueId id = spare_ids_.back();
  spare_ids_.pop_back();
  AddLink(peer, id, 0);
  AnswerAll(lock);
  return id;
}

absl::Status NcclExecutor::Accept(const std::string& peer, const NcclUniqueId& id) {
  Lock lock(mutex_);
  RETURN_IF_ERROR(MayConnectLocked(peer));
  AddLink(peer, id, 1);
  AnswerAll(lock);
  return absl::OkStatus();
}

// The peer's link, if a new transfer may begin on it.
absl::StatusOr<NcclExecutor::LinkPtr> NcclExecutor::Admit(const std::string& peer) {
  const auto found = peers_.find(peer);
  absl::Status status = Door(nullptr);
  if (status.ok() && (found == peers_.end() || found->second.link == nullptr)) {
    status = NotReady(peer, "no communicator");
  }
  if (!status.ok()) {
    ++counters_.refused_not_ready;
    return status;
  }
  Peer& entry = found->second;
  NcclLink& link = *entry.link;
  const absl::Time now = now_();
  if (now >= entry.rest_until && link.bytes_per_second > 0 &&
      link.bytes_per_second < entry.other_bytes_per_second) {
    entry.rest_until = now + options_.slow_rest;
    link.bytes_per_second = 0;  // to be measured anew
  }
  if (now < entry.rest_until) {
    ++counters_.refused_slower;
    return NotReady(peer, "slower than the other transport");
  }
  link.last_used = now;
  return entry.link;
}

uint64_t NcclExecutor::CommunicatorOf(const std::string& peer) const {
  const Lock lock(mutex_);
  const auto found = peers_.find(peer);
  if (found == peers_.end() || found->second.link == nullptr) return 0;
  return found->second.link->number;
}

bool NcclExecutor::IsReady(const std::string& peer, uint64_t communicator) const {
  const Lock lock(mutex_);
  return Door(nullptr).ok() && Find(peer, communicator).ok() &&
         now_() >= peers_.at(peer).rest_until;
}

absl::StatusOr<uint64_t> NcclExecutor::ReadyCommunicator(const std::string& peer) {
  Lock lock(mutex_);
  ASSIGN_OR_RETURN(const LinkPtr link, Admit(peer));
  return link->number;
}

absl::StatusOr<NcclExecutor::LinkPtr> NcclExecutor::Find(const std::string& peer,
                                                         uint64_t communicator) const {
  RETURN_IF_ERROR(shut_down_);
  const auto found = peers_.find(peer);
  if (found == peers_.end() || found->second.link == nullptr ||
      found->second.link->number != communicator) {
    return absl::NotFoundError(absl::StrCat("NCCL with ", peer, ": the communicator is gone"));
  }
  return found->second.link;
}

absl::StatusOr<NcclOffer> NcclExecutor::Offer(const std::string& peer, uint64_t communicator,
                                              absl::Time deadline) {
  Lock lock(mutex_);
  RETURN_IF_ERROR(Admit(peer).status());
  const absl::StatusOr<LinkPtr> link = Find(peer, communicator);
  const absl::StatusOr<uint64_t> sequence = link.ok() ? (*link)->Offer(deadline) : link.status();
  if (!sequence.ok()) {
    ++counters_.refused_not_ready;
    return sequence.status();
  }
  Changed();
  return NcclOffer{communicator, *sequence};
}

absl::Status NcclExecutor::Send(const std::string& peer, const NcclOffer& offer,
                                NcclTransfer transfer) {
  Lock lock(mutex_);
  const absl::StatusOr<LinkPtr> link = Find(peer, offer.communicator);
  if (!link.ok()) {
    ++counters_.failed_transfers;
    return link.status();
  }
  RETURN_IF_ERROR((*link)->Give(offer.sequence, std::move(transfer)));
  Changed();
  return absl::OkStatus();
}

absl::Status NcclExecutor::Receive(const std::string& peer, const NcclOffer& offer,
                                   NcclTransfer transfer) {
  Lock lock(mutex_);
  absl::StatusOr<LinkPtr> link = Find(peer, offer.communicator);
  if (!link.ok()) {
    ++counters_.refused_not_ready;
    return link.status();
  }
  if (absl::Status status = Door(link->get()); !status.ok()) {
    ++counters_.refused_not_ready;
    RETURN_IF_ERROR((*link)->Skip(offer.sequence));
    Changed();
    return status;
  }
  RETURN_IF_ERROR((*link)->Give(offer.sequence, std::move(transfer)));
  Changed();
  return absl::OkStatus();
}

absl::Status NcclExecutor::Skip(const std::string& peer, const NcclOffer& offer) {
  Lock lock(mutex_);
  ASSIGN_OR_RETURN(const LinkPtr link, Find(peer, offer.communicator));
  RETURN_IF_ERROR(link->Skip(offer.sequence));
  Changed();
  return absl::OkStatus();
}

void NcclExecutor::Break(const std::string& peer, uint64_t communicator, const absl::Status& why) {
  Lock lock(mutex_);
  const absl::StatusOr<LinkPtr> link = Find(peer, communicator);
  if (link.ok()) Fail(*link, why);
  AnswerAll(lock);
}

void NcclExecutor::ReportOther(const std::string& peer, double bytes_per_second) {
  const Lock lock(mutex_);
  const auto found = peers_.find(peer);
  if (found != peers_.end()) found->second.other_bytes_per_second = bytes_per_second;
}

NcclSnapshot NcclExecutor::Snapshot() const {
  const Lock lock(mutex_);
  const absl::Time now = now_();
  NcclSnapshot snapshot;
  snapshot.counters = counters_;
  for (const auto& [name, peer] : peers_) {
    NcclPeerSnapshot one{.peer = name,
                         .state = StateOf(peer.link.get(), peer.retry_time, now),
                         .is_slower_than_other = now < peer.rest_until};
    if (peer.link != nullptr) {
      one.num_transfers = peer.link->num_transfers();
      one.bytes_per_second = peer.link->bytes_per_second;
    }
    snapshot.peers.push_back(std::move(one));
  }
  snapshot.num_closing = closing_.size();
  for (const LinkPtr& link : closing_) snapshot.quarantined_bytes += link->bytes_under_way();
  return snapshot;
}

void NcclExecutor::Fail(const LinkPtr& link, const absl::Status& why) {
  if (link->phase == Phase::kClosed) return;
  LogWarning(absl::StrCat("NCCL with ", link->peer, " is lost: ", why.message()));
  const bool was_ready = link->phase == Phase::kReady;
  if (!was_ready) ++counters_.connect_failures;
  Peer& peer = peers_[link->peer];
  // 2^20 times any sensible min_backoff is more than the most.
  const uint64_t doublings = std::min<uint64_t>(peer.num_failures++, 20);
  const absl::Duration backoff = std::min(was_ready ? options_.max_backoff : kMaxConnectBackoff,
                                          options_.min_backoff * (uint64_t{1} << doublings));
  peer.retry_time = now_() + backoff;
  Close(link, absl::UnavailableError(absl::StrCat("NCCL with ", link->peer, ": ", why.message())));
}

void NcclExecutor::Close(const LinkPtr& link, const absl::Status& why) {
  if (link == connecting_) connecting_ = nullptr;
  link->phase = Phase::kClosed;
  for (NcclTransfer& transfer : link->TakeUnanswered()) {
    ++counters_.failed_transfers;
    answers_.push_back({std::move(transfer), why});
  }
  Peer& peer = peers_[link->peer];
  peer.link = nullptr;
  peer.forget_time = std::max(now_(), peer.retry_time) + options_.max_backoff;
  closing_.push_back(link);
  if (!link->in_call) StartAbort(link);
  Changed();
}

// Of a closed link that no call of the executor's thread uses.
void NcclExecutor::StartAbort(const LinkPtr& link) {
  if (link->communicator == nullptr) {
    std::erase(closing_, link);
    return;
  }
  ++counters_.aborts;
  run_aside_([self = shared_from_this(), link] {
    absl::Status status = self->library_->AttachThread();
    link->communicator->Abort();
    status.Update(link->communicator->Drain());
    self->Drained(link, status);
  });
}

// On the helper thread. Without the stream's word that it has ended, its buffers stay in quarantine
// for ever, and nothing more begins on this GPU.
void NcclExecutor::Drained(const LinkPtr& link, const absl::Status& status) {
  if (!status.ok()) {
    LogError(absl::StrCat("NCCL with ", link->peer, " is off for good: ", status.message()));
    return;
  }
  link->communicator.reset();
  Lock lock(mutex_);
  std::erase(closing_, link);
  Changed();
}

void NcclExecutor::Shutdown(const absl::Status& why) {
  Lock lock(mutex_);
  shut_down_ = why;
  for (auto& [name, peer] : peers_) {
    if (peer.link != nullptr) Close(std::exchange(peer.link, nullptr), why);
  }
  Changed();
  AnswerAll(lock);
}

bool NcclExecutor::has_ended() const {
  const Lock lock(mutex_);
  return !shut_down_.ok();
}

bool NcclExecutor::AwaitClosed(absl::Duration at_most) const {
  Lock lock(mutex_);
  return change_.wait_for(lock, absl::ToChronoNanoseconds(at_most),
                          [this] { return closing_.empty(); });
}

uint64_t NcclExecutor::num_changes() const {
  const Lock lock(mutex_);
  return num_changes_;
}

void NcclExecutor::AwaitChange(uint64_t seen, absl::Duration at_most) const {
  Lock lock(mutex_);
  change_.wait_for(lock, absl::ToChronoNanoseconds(at_most),
                   [this, seen] { return num_changes_ != seen; });
}

void NcclExecutor::Changed() {
  ++num_changes_;
  change_.notify_all();
}

void NcclExecutor::AnswerAll(Lock& lock) {
  while (!answers_.empty()) {
    std::vector<Answer> answers = std::exchange(answers_, {});
    lock.unlock();
    for (Answer& answer : answers) answer.transfer.on_done(answer.status);
    answers.clear();  // owners go without the lock too
    lock.lock();
  }
}

}  // namespace kvship
