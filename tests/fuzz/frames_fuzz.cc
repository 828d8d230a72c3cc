// What a prefill node sends on its stream, message by message: a byte for the kind of plan, then
// each message as its length in two bytes, little-endian, and its bytes.
#include "tests/fuzz/fuzzed_attempt.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  using namespace kvship;
  if (num_bytes == 0) return 0;
  FuzzedAttempt attempt(data[0] % FuzzedAttempt::kKinds);
  std::span<const uint8_t> rest(data + 1, num_bytes - 1);
  while (rest.size() >= 2) {
    const size_t wanted = rest[0] + (size_t{rest[1]} << 8);
    rest = rest.subspan(2);
    const size_t length = std::min(wanted, rest.size());
    attempt.Receive(std::as_bytes(rest.first(length)));
    rest = rest.subspan(length);
  }
  return 0;
}
