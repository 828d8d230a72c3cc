// A GenerateRequest of a client.
#include "tests/fuzz/checked_request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  kvship::v1::GenerateRequest message;
  if (message.ParseFromArray(data, static_cast<int>(num_bytes))) {
    kvship::CheckGenerateRequest(message);
  }
  return 0;
}
