// The deadline of a call at its server.
#pragma once

#include <grpc/support/time.h>

#include "absl/time/time.h"

namespace kvship {

// The monotonic time of a context's raw_deadline(); InfiniteFuture if there is none, or it is later
// than gRPC's own deadline() can tell: clients of Go and Java say "none" by 292 years, which that
// makes a time long past.
absl::Time FromGrpcDeadline(gpr_timespec deadline);

}  // namespace kvship
