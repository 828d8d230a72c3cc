// Classifies an attempt's error: the prefill node's fault or not, and so whether to retry and what
// to tell the caller. Pure functions.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kvship {

enum class PrefillFault {
  kNone,      // no fault of the node: no error; or request, caller or this server ended it
  kLost,      // the node is gone or dropped the request
  kBroken,    // it sent invalid data
  kFull,      // it has no room now
  kGaveUp,    // it ended the request because this side or the network was too slow
  kDraining,  // it is shutting down
  kMismatch,  // it runs another model, wire version or plan, or has too little memory
};

PrefillFault FaultOf(const absl::Status& error);

// "lost", "broken", "full", "gave_up", "draining" or "mismatch"; "none".
absl::string_view NameOf(PrefillFault fault);

// Returns whether the fault suggests that the node fails the next prompt too.
bool CountsAgainstNode(PrefillFault fault);

// Returns which error of two attempts at one prompt the caller gets: "no room now" beats "never
// enough room", which beats "no answer". On a tie, the later one. `earlier` may be OK.
absl::Status MoreTelling(const absl::Status& earlier, const absl::Status& later);

absl::Status DeadlinePassed();

// Converts an error for the caller: Unavailable if the node was lost, gave up, sent broken data, or
// runs another model or wire version. The error of a full node has the reason kPrefillFull.
absl::Status ForCaller(const absl::Status& error);

}  // namespace kvship
