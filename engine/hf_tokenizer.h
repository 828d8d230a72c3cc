// Reads a tokenizer.json of huggingface/tokenizers and what transformers keeps beside it in
// tokenizer_config.json. Supports BPE on bytes, or on characters with byte fallback.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/bpe_tokenizer.h"

namespace kvship {

// Errors name the file and the field. NotFound: no such file. InvalidArgument: not JSON, or a field
// is missing, of the wrong type, or invalid. Unimplemented: a part that kvship does not have.
absl::StatusOr<TokenizerParts> ReadHfTokenizer(const std::string& path);

}  // namespace kvship
