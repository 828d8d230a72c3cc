// NcclLink is one communicator with one peer, from the plan to connect until its stream is drained:
// how far it is, and its transfers in the order in which both ends issue them. Not thread safe:
// guarded by its executor's mutex, but for calls of the communicator, which come from the
// executor's thread while `in_call` is set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "transport/nccl_device.h"
#include "transport/nccl_transfer.h"

namespace kvship {

// What both ends call a communicator: of its unique id, which cannot be computed from it.
uint64_t NcclCommunicatorNumber(const NcclUniqueId& id);

class NcclLink {
 public:
  enum class Phase { kWaiting, kConnecting, kWarming, kReady, kClosed };

  // An operation on the stream, or on its way there.
  struct Operation {
    bool is_warm_up = false;  // has no bytes and no deadline but the link's
    uint64_t sequence = 0;
    NcclTransfer transfer = {};
    absl::Time issued = absl::InfinitePast();
  };

  NcclLink(std::string peer, const NcclUniqueId& unique_id, int rank, absl::Time connect_deadline)
      : peer(std::move(peer)),
        unique_id(unique_id),
        number(NcclCommunicatorNumber(unique_id)),
        rank(rank),
        connect_deadline(connect_deadline) {}

  // The sender's next transfer: its sequence number. ResourceExhausted if too many wait.
  absl::StatusOr<uint64_t> Offer(absl::Time deadline);
  // What the sender offered, or the receiver was offered, is to be moved when its turn comes.
  // FailedPrecondition if the number was not offered or has been used; `transfer` is then
  // untouched.
  absl::Status Give(uint64_t sequence, NcclTransfer&& transfer);
  // It is not: its turn is passed over, as it must be on the other side.
  absl::Status Skip(uint64_t sequence);
  // The operation whose turn it is, if it is there and a mark is free for it.
  std::optional<Operation> TakeNext();

  // The steps of an operation: issued, on the stream behind a mark, done.
  void Issue(Operation operation) { issuing_ = std::move(operation); }
  bool is_issuing() const { return issuing_.has_value(); }
  size_t next_mark() const { return num_marked_ % kNcclMarks; }
  void Marked();
  bool has_marked() const { return !marked_.empty(); }
  size_t oldest_mark() const { return (num_marked_ - marked_.size()) % kNcclMarks; }
  // Takes the oldest off the stream, and measures.
  Operation Passed(absl::Time now);

  // No transfer is offered, waits or is under way.
  bool is_quiet() const { return num_transfers() == 0; }
  size_t num_transfers() const;
  // What NCCL may still write to or read from.
  size_t bytes_under_way() const;
  // When the first of its deadlines passes, and what then has not happened.
  absl::Time NextDeadline() const;
  std::string Expired(absl::Time now) const;

  // Everything that has not been answered, which is then none of the link's any more but for the
  // owners of what is under way: those stay, in quarantine, until the link is destroyed.
  std::vector<NcclTransfer> TakeUnanswered();

  const std::string peer;
  const NcclUniqueId unique_id;
  const uint64_t number;
  const int rank;
  const absl::Time connect_deadline;
  Phase phase = Phase::kWaiting;
  std::unique_ptr<NcclCommunicator> communicator;
  bool in_call = false;
  absl::Time last_used;
  double bytes_per_second = 0;  // lately; 0: not measured

 private:
  struct Turn {
    enum class Kind { kOffered, kGiven, kSkipped } kind;
    NcclTransfer transfer;  // of an offer only the deadline
  };
  // The sender's offer, or the receiver's new turn.
  absl::StatusOr<Turn*> TurnOf(uint64_t sequence);
  void PassOverSkipped();

  std::map<uint64_t, Turn> turns_;  // by sequence; not yet issued
  uint64_t next_offer_ = 0;
  uint64_t next_issue_ = 0;
  std::optional<Operation> issuing_;
  std::deque<Operation> marked_;  // oldest first
  uint64_t num_marked_ = 0;
  absl::Time last_passed_ = absl::InfinitePast();
};

}  // namespace kvship
