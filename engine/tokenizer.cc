#include "engine/tokenizer.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/bpe_tokenizer.h"
#include "engine/gguf.h"
#include "engine/gguf_tokenizer.h"
#include "engine/hf_tokenizer.h"

namespace kvship {
namespace {

absl::StatusOr<TokenizerParts> ReadParts(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return ReadHfTokenizer(absl::StrCat(path, "/tokenizer.json"));
  }
  ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  return ReadGgufTokenizer(file);
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::Load(const std::string& path) {
  ASSIGN_OR_RETURN(TokenizerParts parts, ReadParts(path));
  return BpeTokenizer::Create(std::move(parts));
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::LoadIfPresent(const std::string& path) {
  auto tokenizer = Load(path);
  if (absl::IsNotFound(tokenizer.status())) return nullptr;
  return tokenizer;
}

}  // namespace kvship
