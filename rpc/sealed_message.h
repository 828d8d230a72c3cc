// A sealed message ends in the CRC32C of its other bytes, so that one that was damaged on its way
// is not taken for another: TCP's own checksum is weak, and ends at every proxy. Frames have
// checksums of their own. docs/wire.md shows a seal in bytes. Pure functions.
#pragma once

#include <google/protobuf/message_lite.h>

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "kvship/v1/types.pb.h"

namespace kvship {

// The bytes of a PrefillRequest or PrefillResponse, sealed.
std::string Sealed(const google::protobuf::MessageLite& message);

enum class Seal {
  kNone,    // there is none: the sender is older, or the message was damaged just there
  kIntact,  // the bytes are those that were sent
  kBroken,
};
Seal SealOf(std::span<const std::byte> message);

// DataLoss if the seal is broken, or missing where the sender speaks a version that has seals. Of a
// sender that is known to speak one without, what looks like a seal is none. A version of 0 is not
// known yet.
absl::Status CheckSeal(Seal seal, const v1::WireVersion& sender);

}  // namespace kvship
