// The message that follows a whole cache: a byte for the kind of plan, then a PrefillResponse.
#include "tests/fuzz/fuzzed_attempt.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  using namespace kvship;
  if (num_bytes == 0) return 0;
  FuzzedAttempt attempt(data[0] % FuzzedAttempt::kKinds);
  std::vector<std::string> messages = attempt.RightMessages();
  messages.back().assign(reinterpret_cast<const char*>(data + 1), num_bytes - 1);
  for (const std::string& message : messages) attempt.Receive(std::as_bytes(std::span(message)));
  return 0;
}
