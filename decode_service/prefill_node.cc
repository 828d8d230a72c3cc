#include "decode_service/prefill_node.h"

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "decode_service/prefill_attempt.h"
#include "decode_service/prefill_fault.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

// A lost node is back within a second, or not soon; checks tell which.
constexpr absl::Duration kFirstEjection = absl::Seconds(1);
// Bounds the cost of a node that fails every prompt: one retry per this time.
constexpr absl::Duration kLongestEjection = absl::Seconds(30);

// Random, so that decode nodes that lost the same node do not retry it simultaneously.
absl::Duration EjectionAfter(size_t failures) {
  thread_local std::minstd_rand random(std::random_device{}());
  const absl::Duration longest = std::min(
      kLongestEjection, kFirstEjection * (int64_t{1} << std::min<size_t>(failures - 1, 6)));
  return longest * std::uniform_real_distribution<>(0.5, 1.0)(random);
}

// Returns whether the node itself refuses to serve. gRPC also returns the other errors, for a
// connection that breaks mid-message or carries garbage.
bool IsOwnWord(const absl::Status& check) {
  return !ReasonOf(check).empty() || absl::IsPermissionDenied(check) ||
         absl::IsUnauthenticated(check) || absl::IsUnimplemented(check);
}

}  // namespace

absl::string_view PrefillNode::NameOf(Standing standing) {
  switch (standing) {
    case Standing::kServing: return "serving";
    case Standing::kDraining: return "draining";
    case Standing::kEjected: return "ejected";
    case Standing::kSilent: return "silent";
    case Standing::kUnfit: break;
  }
  return "unfit";
}

bool PrefillNode::NoteCheck(const absl::Status& status, const v1::PrefillLoad& load,
                            uint64_t own_tokens, absl::Time now) {
  std::lock_guard lock(mutex_);
  // A node that answers again was restarted, or its network was: end its ejection.
  if (status.ok() && !check_.ok()) ejected_until_ = std::min(ejected_until_, now);
  check_ = status;
  draining_ = load.draining();
  keeps_prefixes_ = load.keeps_prefixes();
  others_tokens_ = load.prompt_tokens() - std::min<uint64_t>(load.prompt_tokens(), own_tokens);
  const Standing standing = StandingLocked(now);
  if (standing == Standing::kEjected) return false;  // NoteEnd reported it
  const std::tuple news(standing, check_.code(), ReasonOf(check_));
  return std::exchange(told_, news) != news;
}

void PrefillNode::NoteBegin(size_t unread_tokens) {
  std::lock_guard lock(mutex_);
  outstanding_tokens_ += unread_tokens;
  ++outstanding_prompts_;
}

bool PrefillNode::NoteEnd(size_t unread_tokens, absl::Time begun, const absl::Status& outcome,
                          absl::Time now) {
  std::lock_guard lock(mutex_);
  outstanding_tokens_ -= unread_tokens;
  --outstanding_prompts_;
  if (outcome.ok()) {
    failures_ = 0;
    ejected_until_ = std::min(ejected_until_, now);
    return false;
  }
  const PrefillFault fault = FaultOf(outcome);
  draining_ |= fault == PrefillFault::kDraining;
  if (!CountsAgainstNode(fault) || begun < ejected_at_ || IsOwnWord(check_)) return false;
  ++failures_;
  last_failure_ = outcome;
  ejected_at_ = now;
  ejected_until_ = now + EjectionAfter(failures_);
  told_.reset();
  return true;
}

void PrefillNode::Enter(const std::shared_ptr<PrefillAttempt>& attempt) {
  std::lock_guard lock(mutex_);
  attempts_.insert(attempt);
}

void PrefillNode::Leave(const std::shared_ptr<PrefillAttempt>& attempt) {
  std::lock_guard lock(mutex_);
  attempts_.erase(attempt);
}

void PrefillNode::EndAttempts(const absl::Status& why) {
  std::vector<std::shared_ptr<PrefillAttempt>> under_way;
  {
    std::lock_guard lock(mutex_);
    for (const auto& attempt : attempts_) under_way.push_back(attempt.lock());
  }
  for (const auto& attempt : under_way) {
    if (attempt != nullptr) attempt->Cancel(why);
  }
}

PrefillNode::Standing PrefillNode::StandingLocked(absl::Time now) const {
  if (IsOwnWord(check_)) return Standing::kUnfit;
  if (!check_.ok()) return Standing::kSilent;
  if (draining_) return Standing::kDraining;
  // After the ejection, one prompt probes the node.
  const bool awaits_probe = failures_ > 0 && outstanding_prompts_ > 0;
  return now < ejected_until_ || awaits_probe ? Standing::kEjected : Standing::kServing;
}

absl::Status PrefillNode::HealthLocked(absl::Time now) const {
  switch (StandingLocked(now)) {
    case Standing::kServing: return absl::OkStatus();
    case Standing::kDraining: return absl::UnavailableError("it is shutting down");
    case Standing::kEjected:
      return absl::UnavailableError(
          absl::StrCat("it failed ", failures_, " times, last with: ", last_failure_.message()));
    case Standing::kSilent:
    case Standing::kUnfit: break;
  }
  return check_;
}

PrefillNode::Standing PrefillNode::standing(absl::Time now) const {
  std::lock_guard lock(mutex_);
  return StandingLocked(now);
}

absl::Status PrefillNode::health(absl::Time now) const {
  std::lock_guard lock(mutex_);
  return HealthLocked(now);
}

uint64_t PrefillNode::load_tokens() const {
  std::lock_guard lock(mutex_);
  return others_tokens_ + outstanding_tokens_;
}

uint64_t PrefillNode::outstanding_tokens() const {
  std::lock_guard lock(mutex_);
  return outstanding_tokens_;
}

bool PrefillNode::keeps_prefixes() const {
  std::lock_guard lock(mutex_);
  return keeps_prefixes_;
}

PrefillNodeState PrefillNode::state(absl::Time now) const {
  std::lock_guard lock(mutex_);
  const absl::Status health = HealthLocked(now);
  return {.address = address_,
          .serving = health.ok(),
          .health = health.ok() ? "serving" : std::string(health.message()),
          .load_tokens = others_tokens_ + outstanding_tokens_,
          .ejected_for = std::max(absl::ZeroDuration(), ejected_until_ - now)};
}

}  // namespace kvship
