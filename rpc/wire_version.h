// The version of the wire between prefill and decode nodes. The major changes when an old peer
// would misread a new one; the minor when something is added. At least one minor version back is
// understood, so that nodes can be upgraded one by one.
#pragma once

#include "absl/status/status.h"
#include "kvship/v1/types.pb.h"

namespace kvship {

inline constexpr uint32_t kWireMajor = 1;
inline constexpr uint32_t kWireMinor = 7;
inline constexpr uint32_t kOldestWireMinor = 1;         // that is understood
inline constexpr uint32_t kAllowedTokensWireMinor = 7;  // since which Begin may have them

// How frames travel, as Begin, Ready and Go name it.
inline constexpr char kGrpcTransport[] = "grpc";
inline constexpr char kNcclTransport[] = "nccl";  // those that NCCL takes, the rest over gRPC

v1::WireVersion WireVersionProto();

// Whether a peer that speaks `version` is understood: an equal major, and a minor that is
// not older than `oldest_minor`. (A newer peer decides for itself.) FailedPrecondition with reason
// WIRE_VERSION_MISMATCH if not.
absl::Status CheckWireVersion(const v1::WireVersion& version,
                              uint32_t oldest_minor = kOldestWireMinor);

}  // namespace kvship
