// A GGUF file: its header, and the configuration, tokenizer and chat template that its metadata
// describe.
#include "engine/chat_template_source.h"
#include "engine/gguf.h"
#include "engine/gguf_config.h"
#include "engine/tokenizer.h"
#include "tests/fuzz/memory_file.h"

namespace kvship {
namespace {

// Reads the ends of every tensor, which address sanitizer and the system check.
void Touch(const FileTensors& tensors) {
  volatile unsigned sum = 0;
  for (const auto& [name, tensor] : tensors) {
    if (tensor.bytes.empty()) continue;
    sum = sum + static_cast<unsigned>(tensor.bytes.front()) +
          static_cast<unsigned>(tensor.bytes.back());
  }
}

void UseTokenizer(const Tokenizer& tokenizer) {
  const auto ids = tokenizer.Encode("the <|im_end|> thin and\n", /*parse_special=*/true);
  if (!ids.ok()) return;
  for (const int32_t id : *ids) {
    Require(id >= 0 && static_cast<size_t>(id) < tokenizer.vocab_tokens(),
            "Encode gives ids of the vocabulary");
    (void)tokenizer.TokenBytes(id);
  }
}

}  // namespace
}  // namespace kvship

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  using namespace kvship;
  const MemoryFile input(data, num_bytes);
  const auto file = GgufFile::Open(input.path());
  if (!file.ok()) return 0;
  Touch(file->tensors());
  if (const auto config = ReadGgufConfig(*file); config.ok()) {
    Require(config->Validate().ok(), "a configuration that was read is valid");
  }
  const auto tokenizer = Tokenizer::Load(input.path());
  if (!tokenizer.ok()) return 0;
  UseTokenizer(**tokenizer);
  // Not run: a program may do what it likes, as long as it likes.
  if (const auto chat = ReadChatTemplateSource(input.path(), **tokenizer); chat.ok()) {
    Require(!chat->program.empty(), "a chat template that was read is a program");
  }
  return 0;
}
