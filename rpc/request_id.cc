#include "rpc/request_id.h"

#include <sys/random.h>

#include <cassert>

#include "absl/strings/escaping.h"

namespace kvship {

std::string NewRequestId() {
  std::string bits(16, '\0');
  [[maybe_unused]] const ssize_t num_bytes = getrandom(bits.data(), bits.size(), 0);
  assert(num_bytes == 16);  // so few bytes always come whole
  return absl::BytesToHexString(bits);
}

}  // namespace kvship
