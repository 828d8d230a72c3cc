#include "rpc/wire_version.h"

#include "absl/strings/str_cat.h"
#include "rpc/errors.h"

namespace kvship {

v1::WireVersion WireVersionProto() {
  v1::WireVersion version;
  version.set_major(kWireMajor);
  version.set_minor(kWireMinor);
  return version;
}

absl::Status CheckWireVersion(const v1::WireVersion& version, uint32_t oldest_minor) {
  if (version.major() == kWireMajor && version.minor() >= oldest_minor) {
    return absl::OkStatus();
  }
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "the peer's wire_version is ", version.major(), ".", version.minor(), "; wanted ",
          kWireMajor, ".", oldest_minor, " or a later minor version of ", kWireMajor)),
      kWireVersionMismatch);
}

}  // namespace kvship
