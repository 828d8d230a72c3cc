// A sealed message ends with the CRC32C of its other bytes, which detects corruption in transit:
// TCP's own checksum is weak, and ends at every proxy. Frames have their own checksums.
// docs/wire.md shows a seal in bytes. Pure functions.
#pragma once

#include <google/protobuf/message_lite.h>

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "kvship/v1/types.pb.h"

namespace kvship {

// Serializes a PrefillRequest or PrefillResponse, sealed.
std::string Sealed(const google::protobuf::MessageLite& message);

enum class Seal {
  kNone,    // absent: the sender is older, or the seal itself was corrupted
  kIntact,  // the bytes are as sent
  kBroken,
};
Seal SealOf(std::span<const std::byte> message);

// DataLoss if the seal is broken, or missing although the sender's version has seals. If that
// version is known to have none, ignores what looks like a seal. A version of 0 is unknown yet.
absl::Status CheckSeal(Seal seal, const v1::WireVersion& sender);

}  // namespace kvship
