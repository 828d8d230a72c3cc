// Converts statuses between Abseil and gRPC. Payloads of an absl::Status travel as details of a
// google.rpc.Status in the trailer, where any gRPC library finds them. Pure functions.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace kvship {

// An error always has details, at least its code and message: errors of gRPC itself have none.
grpc::Status ToGrpcStatus(const absl::Status& status);

// Omits details that cannot be parsed.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace kvship
