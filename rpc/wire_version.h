// The version of the wire protocol between prefill and decode nodes. The major changes when old
// peers would misread new ones; the minor when something is added. At least one minor version back
// is accepted, so that nodes can be upgraded one by one. Pure functions.
#pragma once

#include "absl/status/status.h"
#include "kvship/v1/types.pb.h"

namespace kvship {

inline constexpr uint32_t kWireMajor = 1;
inline constexpr uint32_t kWireMinor = 8;
inline constexpr uint32_t kOldestWireMinor = 1;         // the oldest accepted
inline constexpr uint32_t kAllowedTokensWireMinor = 7;  // the first with Begin.allowed_tokens
inline constexpr uint32_t kCacheSaltWireMinor = 8;      // the first with Begin.cache_salt

// The transports of frames, as named in Begin, Ready and Go.
inline constexpr char kGrpcTransport[] = "grpc";
inline constexpr char kNcclTransport[] = "nccl";  // what NCCL accepts; the rest over gRPC

v1::WireVersion WireVersionProto();

// Checks that a peer's version is accepted: an equal major, and a minor not older than
// `oldest_minor`. (A newer peer decides for itself.) FailedPrecondition with reason
// WIRE_VERSION_MISMATCH if not.
absl::Status CheckWireVersion(const v1::WireVersion& version,
                              uint32_t oldest_minor = kOldestWireMinor);

}  // namespace kvship
