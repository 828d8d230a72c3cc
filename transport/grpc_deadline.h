// Reads the deadline of a call at its server. A pure function.
#pragma once

#include <grpc/support/time.h>

#include "absl/time/time.h"

namespace kvship {

// Converts a server context's raw_deadline() to monotonic time; InfiniteFuture if there is none, or
// it exceeds what gRPC's own deadline() can represent: Go and Java clients send 292 years for
// "none", which deadline() turns into a time long past.
absl::Time FromGrpcDeadline(gpr_timespec deadline);

}  // namespace kvship
