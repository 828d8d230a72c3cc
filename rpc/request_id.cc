#include "rpc/request_id.h"

#include "absl/strings/str_format.h"
#include "base/system_random.h"

namespace kvship {

std::string NewRequestId() {
  return absl::StrFormat("%016x%016x", SystemRandomBits(), SystemRandomBits());
}

}  // namespace kvship
