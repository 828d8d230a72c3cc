#include "engine/tokenizer.h"

#include <filesystem>
#include <utility>

#include "base/status_macros.h"
#include "engine/byte_level_tokenizer.h"
#include "engine/gguf.h"
#include "engine/gguf_tokenizer.h"

namespace kvship {

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::Load(const std::string& path) {
  ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  ASSIGN_OR_RETURN(TokenizerParts parts, ReadGgufTokenizer(file));
  return ByteLevelTokenizer::Create(std::move(parts));
}

}  // namespace kvship
