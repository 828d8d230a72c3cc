// NcclLink is the state of one communicator with one peer, from the decision to connect until its
// stream is drained: its phase, and its transfers in the order in which both ends issue them. Not
// thread safe: the executor's mutex guards it, except calls of the communicator, which the
// executor's thread makes while `in_call` is set.
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

// The number by which both ends name a communicator: a hash of its unique id, which it does not
// reveal.
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

  // Returns the sequence number of the sender's next transfer. ResourceExhausted if too many wait.
  absl::StatusOr<uint64_t> Offer(absl::Time deadline);
  // Supplies the buffer of an offered transfer, which moves when its turn comes. FailedPrecondition
  // if `sequence` was not offered or was used; `transfer` is then untouched.
  absl::Status Give(uint64_t sequence, NcclTransfer&& transfer);
  // Skips the transfer's turn; the other side must skip it too. Errors as Give.
  absl::Status Skip(uint64_t sequence);
  // Returns the operation whose turn it is, if its buffer is there and a mark is free.
  std::optional<Operation> TakeNext();

  // The steps of an operation: issued, marked on the stream, passed.
  void Issue(Operation operation) { issuing_ = std::move(operation); }
  bool is_issuing() const { return issuing_.has_value(); }
  size_t next_mark() const { return num_marked_ % kNcclMarks; }
  void Marked();
  bool has_marked() const { return !marked_.empty(); }
  size_t oldest_mark() const { return (num_marked_ - marked_.size()) % kNcclMarks; }
  // Removes the oldest marked operation and measures its rate.
  Operation Passed(absl::Time now);

  // Returns whether no transfer is offered, waiting or in flight.
  bool is_quiet() const { return num_transfers() == 0; }
  size_t num_transfers() const;
  // Bytes that NCCL may still read or write.
  size_t bytes_under_way() const;
  // The earliest deadline, and a description of what has missed its deadline by `now`.
  absl::Time NextDeadline() const;
  std::string Expired(absl::Time now) const;

  // Takes all unanswered transfers out of the link. The link keeps the owners of those in flight,
  // in quarantine, until it is destroyed.
  std::vector<NcclTransfer> TakeUnanswered();

  const std::string peer;
  const NcclUniqueId unique_id;
  const uint64_t number;
  const int rank;
  absl::Time connect_deadline;
  Phase phase = Phase::kWaiting;
  std::unique_ptr<NcclCommunicator> communicator;
  bool in_call = false;
  absl::Time last_used;
  double bytes_per_second = 0;  // moving average; 0: not measured

 private:
  struct Turn {
    enum class Kind { kOffered, kGiven, kSkipped } kind;
    NcclTransfer transfer;  // an offer has only the deadline
  };
  // Returns the sender's offer, or a new turn of the receiver.
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
