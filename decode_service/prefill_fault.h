// What the error of an attempt at a prefill node says of the node, and so what is to be done. Pure
// functions.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace kvship {

enum class PrefillFault {
  kNone,      // of the node: no error; or the request, the caller or this server ended the attempt
  kLost,      // the node is gone, or let the request go
  kBroken,    // it sent what cannot be
  kFull,      // it has no room now
  kGaveUp,    // it ended the request because this side, or the way here, was too slow for it
  kDraining,  // it shuts down
  kMismatch,  // it runs another model, wire version or plan, or has too little memory
};

PrefillFault FaultOf(const absl::Status& error);

// "lost", "broken", "full", "gave_up", "draining" or "mismatch"; "none".
absl::string_view NameOf(PrefillFault fault);

// Whether the fault lets fear that the node fails the next prompt too.
bool CountsAgainstNode(PrefillFault fault);

// Of what two attempts at one prompt came to, the one that the caller is told: a node that will
// have room says more than one that never has, and that more than one which does not answer. The
// later of two that say as much; `earlier` may be OK.
absl::Status MoreTelling(const absl::Status& earlier, const absl::Status& later);

absl::Status DeadlinePassed();

// What the caller is told: to it, a node that was lost, gave up, sent broken data or runs another
// model or wire version is no node at all. A full one's error has the reason kPrefillFull.
absl::Status ForCaller(const absl::Status& error);

}  // namespace kvship
