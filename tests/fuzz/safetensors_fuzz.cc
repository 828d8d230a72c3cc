// A safetensors file.
#include "engine/safetensors.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  using namespace kvship;
  const MemoryFile input(data, num_bytes);
  const auto files = ReadSafetensors(input.path());
  if (!files.ok()) return 0;
  volatile unsigned sum = 0;
  for (const auto& [name, tensor] : files->tensors) {
    size_t num_elements = 1;
    for (const size_t dim : tensor.shape) num_elements *= dim;
    Require(tensor.bytes.size() == num_elements * BlockOf(tensor.format).num_bytes,
            "a tensor has the bytes of its shape");
    if (tensor.bytes.empty()) continue;
    sum = sum + static_cast<unsigned>(tensor.bytes.front()) +
          static_cast<unsigned>(tensor.bytes.back());
  }
  return 0;
}
