// NcclExecutor moves bytes between this GPU and those of its peers over NCCL, or says at once that
// the other transport has to: a communicator is made lazily, when a request asks for a peer, and
// until it is warm, while it is rebuilt, when it is lost and when it is slower, every request gets
// an error here and goes on over gRPC.
//
// Between two processes a transfer goes like this, the messages on the request's own stream:
//
//   rank 0, the sender              rank 1, the receiver
//   Offer -> announce ------------->  Receive -> accepted, or refused and passed over
//   Send, or Skip  <----------------
//   on_done                           on_done -> says whether the bytes were good
//
// Nothing is allocated or freed on the device while a kernel may wait for a peer: a connect closes
// the door for new transfers of this GPU, waits for those that were let in, and runs alone; so does
// an eviction. After a failure nothing is issued until the abort has returned.
//
// Thread safe, and without threads of its own: NcclTransport gives it one that calls Advance, which
// makes all calls of NCCL, and one that calls Watch, which keeps the deadlines even when a call
// does not return. Aborts run on helper threads and may never return: that is why it is held by
// shared_ptr, which they share.
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
  // Device memory that communicators may take together: of more, the least recently used goes.
  size_t max_bytes = size_t{1} << 30;
  // What one takes. 52 to 100 MB were measured, depending on NCCL_MAX_CTAS and NCCL_BUFFSIZE.
  size_t communicator_bytes = 100'000'000;
  // From the invitation until it is warm, the wait for transfers under way included; 0.1 to 0.9 s
  // were measured, and more in a process' first.
  absl::Duration connect_timeout = absl::Seconds(5);
  // After a failure a peer's communicator is not made again for min_backoff; each further failure
  // without a transfer in between doubles that.
  absl::Duration min_backoff = absl::Seconds(1);
  absl::Duration max_backoff = absl::Minutes(1);
  // The same of a peer that cannot be connected with: each try may cost NCCL a thread and some
  // memory for good.
  absl::Duration max_connect_backoff = absl::Hours(1);
  // A communicator that was used so lately does not go for another's sake: more peers than there is
  // room for would only ever connect.
  absl::Duration min_residency = absl::Seconds(30);
  // So long a peer that NCCL reaches more slowly than the other transport does goes without it;
  // then it is measured again.
  absl::Duration slow_rest = absl::Seconds(30);

  // InvalidArgument, naming the field.
  absl::Status Validate() const;
};

class NcclExecutor : public std::enable_shared_from_this<NcclExecutor> {
 public:
  using Clock = std::function<absl::Time()>;
  // Runs a job that may block for ever on a thread of its own.
  using RunAside = std::function<void(std::function<void()> job)>;

  // `library` is shared with aborts that hang. Errors: those of Validate.
  static absl::StatusOr<std::shared_ptr<NcclExecutor>> Create(std::shared_ptr<NcclLibrary> library,
                                                              const NcclOptions& options, Clock now,
                                                              RunAside run_aside);

  // `peer` names the GPU at the other end, as the authenticated stream knows it. Errors all mean
  // "use the other transport". Unavailable: not now. NotFound: the communicator is gone, evicted or
  // lost; tell the peer, which calls Break.

  // Whether an invitation by the peer would be accepted now.
  absl::Status MayConnect(const std::string& peer) const;
  // Begins to connect with a peer as rank 0; it must be given the id, to Accept it. A communicator
  // that is there already is replaced: whoever invites knows that the peer has lost it.
  absl::StatusOr<NcclUniqueId> Invite(const std::string& peer);
  // Begins to connect as rank 1. After an error tell the peer, which calls Break for the id's
  // NcclCommunicatorNumber.
  absl::Status Accept(const std::string& peer, const NcclUniqueId& id);
  // The communicator that the peer has here, ready or not; 0: none. Ends that name different ones
  // have to connect anew.
  uint64_t CommunicatorOf(const std::string& peer) const;
  // Whether offers are taken at present.
  bool IsReady(const std::string& peer, uint64_t communicator) const;
  // The communicator for a request's transfers; both ends must name the same.
  absl::StatusOr<uint64_t> ReadyCommunicator(const std::string& peer);

  // The sender's next transfer. Send or Skip must follow before the deadline: as NCCL cannot be
  // told that a transfer is off, an offer without an answer costs the communicator.
  absl::StatusOr<NcclOffer> Offer(const std::string& peer, uint64_t communicator,
                                  absl::Time deadline);
  // What was offered and accepted, as many bytes as were announced. on_done is called if and only
  // if OK is returned.
  absl::Status Send(const std::string& peer, const NcclOffer& offer, NcclTransfer transfer);
  // What was announced. After OK the peer may send; after an error the offer has been passed over
  // here, and the peer must Skip it. on_done as for Send.
  absl::Status Receive(const std::string& peer, const NcclOffer& offer, NcclTransfer transfer);
  // The offer was refused by the peer, or, at the receiver, is by us. FailedPrecondition if it was
  // none or has been used.
  absl::Status Skip(const std::string& peer, const NcclOffer& offer);
  // Gives up a communicator, if it is still the peer's: the peer has, or refused it, or the stream
  // of an accepted offer broke. All its transfers fail.
  void Break(const std::string& peer, uint64_t communicator, const absl::Status& why);
  // How fast the other transport reaches a peer that NCCL reaches too.
  void ReportOther(const std::string& peer, double bytes_per_second);

  NcclSnapshot Snapshot() const;

  // For the two threads. Advance does what can be done without waiting, and returns whether
  // something is under way that has to be looked at again soon; Watch fails what is late, and
  // returns when the next deadline passes.
  bool Advance();
  absl::Time Watch();
  // Counts whatever may give the two something to do; AwaitChange waits until it is not `seen`.
  uint64_t num_changes() const;
  void AwaitChange(uint64_t seen, absl::Duration at_most) const;

  // Answers everything with `why`, aborts all and refuses from now on.
  void Shutdown(const absl::Status& why);
  bool has_ended() const;
  // Waits until nothing is being aborted: false if that takes longer.
  bool AwaitClosed(absl::Duration at_most) const;

 private:
  using Lock = std::unique_lock<std::mutex>;
  using LinkPtr = std::shared_ptr<NcclLink>;  // shared: with the abort that outlives its place here
  struct Peer {
    LinkPtr link;  // none: absent, or failed until retry_time
    bool had_one = false;
    uint64_t num_failures = 0;  // since a transfer was done
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
  LinkPtr LeastRecentlyUsed() const;
  size_t NumLinks() const;
  bool HasRoomFor(size_t num_links) const;
  void AddLink(const std::string& peer, const NcclUniqueId& id, int rank);
  absl::StatusOr<LinkPtr> Admit(const std::string& peer);
  absl::StatusOr<LinkPtr> Find(const std::string& peer, uint64_t communicator) const;

  // Make calls of NCCL: they release the lock meanwhile. False if the link is closed then.
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
  std::vector<NcclUniqueId> spare_ids_;  // drawn for invitations that then could not be sent
  LinkPtr connecting_;                   // the one before it is ready; never more than one
  std::vector<LinkPtr> closing_;         // until drained
  std::vector<Answer> answers_;          // to be given as soon as the lock is free
  NcclCounters counters_;
};

}  // namespace kvship
