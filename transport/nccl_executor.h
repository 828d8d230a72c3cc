// NcclExecutor moves bytes between this GPU and its peers' GPUs over NCCL. It creates a
// communicator lazily, when a request asks for a peer. While a communicator connects, warms up or
// reconnects, and when it is lost or slower than the other transport, calls fail at once and
// requests use gRPC.
//
// The protocol of one transfer; the messages travel on the request's own stream:
//
//   rank 0, the sender              rank 1, the receiver
//   Offer -> announce ------------->  Receive -> accepted, or refused and skipped
//   Send, or Skip  <----------------
//   on_done                           on_done -> reports whether the bytes were good
//
// Nothing is allocated or freed on the device while a kernel may wait for a peer: a connect stops
// the admission of transfers on this GPU, waits until those admitted have ended, and runs alone. So
// does an eviction. After a failure nothing is issued until the abort has returned.
//
// Thread safe, without threads of its own: NcclTransport runs one that calls Advance, which makes
// all NCCL calls, and one that calls Watch, which enforces deadlines even when a call hangs. Aborts
// run on helper threads and may never return; therefore shared_ptr holds the executor, and they
// share it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "transport/nccl_device.h"
#include "transport/nccl_link.h"
#include "transport/nccl_snapshot.h"
#include "transport/nccl_transfer.h"

namespace kvship {

struct NcclOptions {
  // Device memory for all communicators together; above it the least recently used one is evicted.
  size_t max_bytes = size_t{1} << 30;
  // Device memory of one communicator. 52 to 100 MB were measured, by NCCL_MAX_CTAS and
  // NCCL_BUFFSIZE.
  size_t communicator_bytes = 100'000'000;
  // From the invitation until the communicator is warm, including the wait for transfers in flight.
  // 0.1 to 0.9 s were measured, and more for a process' first.
  absl::Duration connect_timeout = absl::Seconds(5);
  // After a failure the peer is not reconnected for min_backoff; each further failure without a
  // transfer in between doubles the backoff, up to max_backoff.
  absl::Duration min_backoff = absl::Seconds(1);
  absl::Duration max_backoff = absl::Minutes(1);
  // How long a peer that NCCL reaches more slowly than the other transport does is left to the
  // other one; then NCCL is measured again.
  absl::Duration slow_rest = absl::Seconds(30);

  // Errors: InvalidArgument, naming the field.
  absl::Status Validate() const;
};

class NcclExecutor : public std::enable_shared_from_this<NcclExecutor> {
 public:
  using Clock = std::function<absl::Time()>;
  // Runs `job`, which may block forever, on a thread of its own.
  using RunAside = std::function<void(std::function<void()> job)>;

  // Hanging aborts share `library`. Errors: those of Validate.
  static absl::StatusOr<std::shared_ptr<NcclExecutor>> Create(std::shared_ptr<NcclLibrary> library,
                                                              const NcclOptions& options, Clock now,
                                                              RunAside run_aside);

  // `peer` names the GPU at the other end, as the authenticated stream knows it. Every error means
  // "use the other transport". Unavailable: not now. NotFound: the communicator was evicted or
  // lost; tell the peer, which calls Break.

  // Returns OK if an invitation by the peer would be accepted now.
  absl::Status MayConnect(const std::string& peer) const;
  // Starts connecting to a peer as rank 0; the caller sends it the id, for Accept. Replaces an
  // existing communicator, which the peer does not name any more; but not within connect_timeout of
  // its invitation, as what the peer says may be older than that.
  absl::StatusOr<NcclUniqueId> Invite(const std::string& peer);
  // Gives up a communicator that is not ready by `deadline`: its peer may not have got the
  // invitation, and nothing else begins meanwhile.
  void ConnectBy(const std::string& peer, uint64_t communicator, absl::Time deadline);
  // Starts connecting as rank 1. After an error tell the peer, which calls Break with the id's
  // NcclCommunicatorNumber.
  absl::Status Accept(const std::string& peer, const NcclUniqueId& id);
  // Returns the peer's communicator, ready or not; 0: none. Ends that name different ones must
  // reconnect.
  uint64_t CommunicatorOf(const std::string& peer) const;
  // Returns whether offers are accepted now.
  bool IsReady(const std::string& peer, uint64_t communicator) const;
  // Returns the communicator for a request's transfers; both ends must name the same.
  absl::StatusOr<uint64_t> ReadyCommunicator(const std::string& peer);

  // Reserves the sender's next transfer. Send or Skip must follow before the deadline: NCCL cannot
  // cancel one transfer, so an unanswered offer costs the communicator.
  absl::StatusOr<NcclOffer> Offer(const std::string& peer, uint64_t communicator,
                                  absl::Time deadline);
  // Sends what was offered and accepted, exactly as many bytes as announced. on_done is called if
  // and only if Send returns OK.
  absl::Status Send(const std::string& peer, const NcclOffer& offer, NcclTransfer transfer);
  // Receives what was announced. After OK the peer may send. After an error the offer has been
  // skipped here, and the peer must Skip it too. on_done as for Send.
  absl::Status Receive(const std::string& peer, const NcclOffer& offer, NcclTransfer transfer);
  // Skips an offer that the peer refused (sender) or that we refuse (receiver). FailedPrecondition
  // if there is no such offer or it was used.
  absl::Status Skip(const std::string& peer, const NcclOffer& offer);
  // Aborts a communicator, if it is still the peer's: because the peer did so or refused it, or
  // because the stream of an accepted offer broke. All its transfers fail.
  void Break(const std::string& peer, uint64_t communicator, const absl::Status& why);
  // Reports the other transport's speed to a peer that NCCL reaches too.
  void ReportOther(const std::string& peer, double bytes_per_second);

  NcclSnapshot Snapshot() const;

  // For the two threads. Advance does all work that needs no waiting, and returns whether work is
  // in progress that must be polled soon. Watch fails what has timed out, and returns the next
  // deadline.
  bool Advance();
  absl::Time Watch();
  // Counts the events that may give the two threads work. AwaitChange waits until the count is not
  // `seen`.
  uint64_t num_changes() const;
  void AwaitChange(uint64_t seen, absl::Duration at_most) const;

  // Fails all transfers with `why`, aborts all communicators and refuses calls from now on.
  void Shutdown(const absl::Status& why);
  bool has_ended() const;
  // Waits until all aborts have ended; false on timeout.
  bool AwaitClosed(absl::Duration at_most) const;

 private:
  using Lock = std::unique_lock<std::mutex>;
  using LinkPtr = std::shared_ptr<NcclLink>;  // shared: an abort may outlive its entry here
  struct Peer {
    LinkPtr link;  // none: absent, or failed until retry_time
    bool had_one = false;
    uint64_t num_failures = 0;  // since the last completed transfer
    absl::Time retry_time = absl::InfinitePast();
    absl::Time forget_time = absl::InfiniteFuture();
    double other_bytes_per_second = 0;
    absl::Time rest_until = absl::InfinitePast();
  };
  struct Answer {
    NcclTransfer transfer;
    absl::Status status;
  };

  NcclExecutor(std::shared_ptr<NcclLibrary> library, const NcclOptions& options, Clock now,
               RunAside run_aside);

  absl::Status Door(const NcclLink* own) const;
  absl::Status MayConnectLocked(const std::string& peer) const;
  absl::Status MayInviteLocked(const std::string& peer) const;
  LinkPtr LeastRecentlyUsed() const;
  size_t NumLinks() const;
  bool HasRoomFor(size_t num_links) const;
  void AddLink(const std::string& peer, const NcclUniqueId& id, int rank);
  absl::StatusOr<LinkPtr> Admit(const std::string& peer);
  absl::StatusOr<LinkPtr> Find(const std::string& peer, uint64_t communicator) const;

  // These call NCCL and release the lock meanwhile. False if the link was closed during the call.
  bool Call(Lock& lock, const LinkPtr& link, const std::function<absl::Status()>& call);
  bool AdvanceLink(Lock& lock, const LinkPtr& link);
  bool Connect(Lock& lock, const LinkPtr& link);
  bool WarmUp(Lock& lock, const LinkPtr& link);
  bool Pump(Lock& lock, const LinkPtr& link);
  void Done(const LinkPtr& link, NcclLink::Operation operation);

  bool IsIdleBut(const NcclLink& link) const;
  bool MakeRoom();
  void Fail(const LinkPtr& link, const absl::Status& why);
  void Close(const LinkPtr& link, const absl::Status& why);
  void StartAbort(const LinkPtr& link);
  void Drained(const LinkPtr& link, const absl::Status& status);
  void Changed();
  void AnswerAll(Lock& lock);

  const std::shared_ptr<NcclLibrary> library_;
  const NcclOptions options_;
  const Clock now_;
  const RunAside run_aside_;

  mutable std::mutex mutex_;
  mutable std::condition_variable change_;
  uint64_t num_changes_ = 0;
  absl::Status shut_down_;  // why, once it is
  std::map<std::string, Peer> peers_;
  std::vector<NcclUniqueId> spare_ids_;  // drawn for invitations that could not be sent
  LinkPtr connecting_;                   // not yet ready; at most one at a time
  std::vector<LinkPtr> closing_;         // until drained
  std::vector<Answer> answers_;          // given as soon as the lock is free
  NcclCounters counters_;
};

}  // namespace kvship
