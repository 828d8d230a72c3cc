#include "transport/nccl_link.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/frame_header.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

// Turns that one communicator keeps: gigabytes, as frames go, and little memory for a peer to fill.
constexpr size_t kMostTurns = 1024;

// The share of the newest measurement in the mean.
constexpr double kNewestShare = 0.25;

}  // namespace

uint64_t NcclCommunicatorNumber(const NcclUniqueId& id) {
  Sha256 hash;
  hash.Update(id);
  const Sha256Digest digest = hash.Finish();
  uint64_t number = 0;
  std::memcpy(&number, digest.data(), sizeof number);
  return number;
}

absl::StatusOr<uint64_t> NcclLink::Offer(absl::Time deadline) {
  if (turns_.size() >= kMostTurns) {
    return absl::ResourceExhaustedError(absl::StrCat("NCCL with ", peer, ": ", turns_.size(),
                                                     " transfers wait, the most there may"));
  }
  turns_[next_offer_] = {Turn::Kind::kOffered, {.deadline = deadline}};
  return next_offer_++;
}

absl::StatusOr<NcclLink::Turn*> NcclLink::TurnOf(uint64_t sequence) {
  const auto found = turns_.find(sequence);
  if (rank == 0) {
    if (found != turns_.end() && found->second.kind == Turn::Kind::kOffered) return &found->second;
  } else if (found == turns_.end() && sequence >= next_issue_ &&
             sequence - next_issue_ < kMostTurns) {
    return &turns_[sequence];
  }
  return absl::FailedPreconditionError(
      absl::StrCat("NCCL with ", peer, ": sequence ", sequence,
                   ": wanted one that was offered and not used; next is ", next_issue_));
}

absl::Status NcclLink::Give(uint64_t sequence, NcclTransfer&& transfer) {
  ASSIGN_OR_RETURN(Turn * turn, TurnOf(sequence));
  *turn = {Turn::Kind::kGiven, std::move(transfer)};
  return absl::OkStatus();
}

absl::Status NcclLink::Skip(uint64_t sequence) {
  ASSIGN_OR_RETURN(Turn * turn, TurnOf(sequence));
  *turn = {Turn::Kind::kSkipped, {}};
  PassOverSkipped();
  return absl::OkStatus();
}

void NcclLink::PassOverSkipped() {
  while (!turns_.empty() && turns_.begin()->first == next_issue_ &&
         turns_.begin()->second.kind == Turn::Kind::kSkipped) {
    turns_.erase(turns_.begin());
    ++next_issue_;
  }
}

std::optional<NcclLink::Operation> NcclLink::TakeNext() {
  const auto first = turns_.begin();
  if (issuing_.has_value() || marked_.size() == kNcclMarks || first == turns_.end() ||
      first->first != next_issue_ || first->second.kind != Turn::Kind::kGiven) {
    return std::nullopt;
  }
  Operation operation{.sequence = next_issue_, .transfer = std::move(first->second.transfer)};
  turns_.erase(first);
  ++next_issue_;
  PassOverSkipped();
  return operation;
}

void NcclLink::Marked() {
  marked_.push_back(*std::exchange(issuing_, std::nullopt));
  ++num_marked_;
}

NcclLink::Operation NcclLink::Passed(absl::Time now) {
  Operation operation = std::move(marked_.front());
  marked_.pop_front();
  const size_t num_bytes = operation.transfer.bytes.size();
  // Operations of a stream run one after the other. Small ones measure latency, not the rate.
  const absl::Duration took = now - std::max(operation.issued, last_passed_);
  if (num_bytes >= kMostFrameBytes && took > absl::ZeroDuration()) {
    const double newest = static_cast<double>(num_bytes) / absl::ToDoubleSeconds(took);
    bytes_per_second = bytes_per_second == 0
                           ? newest
                           : bytes_per_second + kNewestShare * (newest - bytes_per_second);
  }
  last_passed_ = now;
  last_used = now;
  return operation;
}

size_t NcclLink::num_transfers() const {
  size_t count = marked_.size() + (issuing_.has_value() ? 1 : 0);
  for (const auto& [sequence, turn] : turns_) count += turn.kind != Turn::Kind::kSkipped ? 1 : 0;
  return count;
}

size_t NcclLink::bytes_under_way() const {
  size_t num_bytes = issuing_.has_value() ? issuing_->transfer.bytes.size() : 0;
  for (const Operation& operation : marked_) num_bytes += operation.transfer.bytes.size();
  return num_bytes;
}

absl::Time NcclLink::NextDeadline() const {
  absl::Time next = phase < Phase::kReady ? connect_deadline : absl::InfiniteFuture();
  for (const auto& [sequence, turn] : turns_) {
    if (turn.kind != Turn::Kind::kSkipped) next = std::min(next, turn.transfer.deadline);
  }
  for (const Operation& operation : marked_) next = std::min(next, operation.transfer.deadline);
  if (issuing_.has_value()) next = std::min(next, issuing_->transfer.deadline);
  return next;
}

std::string NcclLink::Expired(absl::Time now) const {
  if (phase < Phase::kReady && connect_deadline <= now) return "not connected";
  for (const Operation& operation : marked_) {
    if (operation.transfer.deadline <= now) {
      return absl::StrCat("transfer ", operation.sequence, " under way and not finished");
    }
  }
  if (issuing_.has_value() && issuing_->transfer.deadline <= now) {
    return absl::StrCat("transfer ", issuing_->sequence, " not yet on the stream");
  }
  for (const auto& [sequence, turn] : turns_) {
    if (turn.kind == Turn::Kind::kSkipped || turn.transfer.deadline > now) continue;
    if (turn.kind == Turn::Kind::kOffered) {
      return absl::StrCat("the offer of transfer ", sequence, " not answered");
    }
    return absl::StrCat("transfer ", sequence, " still waiting for transfer ", next_issue_);
  }
  return "nothing";
}

std::vector<NcclTransfer> NcclLink::TakeUnanswered() {
  std::vector<NcclTransfer> unanswered;
  const auto answer_and_keep = [&unanswered](Operation& operation) {
    if (operation.is_warm_up) return;
    unanswered.push_back({.on_done = std::exchange(operation.transfer.on_done, nullptr)});
  };
  for (Operation& operation : marked_) answer_and_keep(operation);
  if (issuing_.has_value()) answer_and_keep(*issuing_);
  for (auto& [sequence, turn] : turns_) {
    if (turn.kind == Turn::Kind::kGiven) unanswered.push_back(std::move(turn.transfer));
  }
  turns_.clear();
  return unanswered;
}

}  // namespace kvship
