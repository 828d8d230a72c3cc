#include "decode_service/prefill_fault.h"

#include "absl/strings/str_cat.h"
#include "decode_service/rejection.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

// Returns whether the two nodes are incompatible, whatever the request.
bool NodesDiffer(absl::string_view reason) {
  return reason == kModelMismatch || reason == kWireVersionMismatch || reason == kPlanMismatch;
}

// Ranks how much an error tells the caller about what to do.
int TellingOf(const absl::Status& error) {
  if (error.ok()) return 0;
  switch (FaultOf(error)) {
    case PrefillFault::kNone: return 4;  // no other node would do better
    case PrefillFault::kFull: return 3;
    case PrefillFault::kMismatch: return NodesDiffer(ReasonOf(error)) ? 1 : 2;
    default: return 1;
  }
}

}  // namespace

PrefillFault FaultOf(const absl::Status& error) {
  if (ReasonOf(error) == kDraining) return PrefillFault::kDraining;
  if (!ReasonOf(error).empty()) return PrefillFault::kMismatch;
  switch (error.code()) {
    case absl::StatusCode::kUnavailable: return PrefillFault::kLost;
    // Of this node, not of the request's client.
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kNotFound: return PrefillFault::kLost;
    // gRPC reports these for a connection that breaks mid-message or carries garbage; a node
    // reports them for a fault of its own.
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnimplemented: return PrefillFault::kLost;
    case absl::StatusCode::kDataLoss: return PrefillFault::kBroken;
    case absl::StatusCode::kResourceExhausted: return PrefillFault::kFull;
    case absl::StatusCode::kAborted: return PrefillFault::kGaveUp;
    default: return PrefillFault::kNone;
  }
}

absl::string_view NameOf(PrefillFault fault) {
  switch (fault) {
    case PrefillFault::kLost: return "lost";
    case PrefillFault::kBroken: return "broken";
    case PrefillFault::kFull: return "full";
    case PrefillFault::kGaveUp: return "gave_up";
    case PrefillFault::kDraining: return "draining";
    case PrefillFault::kMismatch: return "mismatch";
    case PrefillFault::kNone: break;
  }
  return "none";
}

bool CountsAgainstNode(PrefillFault fault) {
  return fault == PrefillFault::kLost || fault == PrefillFault::kBroken;
}

absl::Status MoreTelling(const absl::Status& earlier, const absl::Status& later) {
  return TellingOf(later) >= TellingOf(earlier) ? later : earlier;
}

absl::Status DeadlinePassed() {
  return absl::DeadlineExceededError("the request's deadline has passed; allow it more time");
}

absl::Status ForCaller(const absl::Status& error) {
  // The request's own.
  if (absl::IsDeadlineExceeded(error)) return DeadlinePassed();
  switch (FaultOf(error)) {
    case PrefillFault::kLost:
      return absl::UnavailableError(
          absl::StrCat("the prefill node was lost or not reached: ", error.message()));
    case PrefillFault::kBroken:
      return absl::UnavailableError(
          absl::StrCat("the prefill node sent a broken cache: ", error.message()));
    case PrefillFault::kGaveUp:
      return absl::UnavailableError(
          absl::StrCat("the prefill node gave the request up: ", error.message()));
    case PrefillFault::kMismatch:
      // Other reasons concern the request: it asks for more than the nodes can do.
      if (!NodesDiffer(ReasonOf(error))) return error;
      return absl::UnavailableError(
          absl::StrCat("the prefill node does not fit this one: ", error.message()));
    case PrefillFault::kFull: return WithReason(error, kPrefillFull);
    default: return error;
  }
}

}  // namespace kvship
