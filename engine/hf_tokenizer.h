// The tokenizer that a tokenizer.json of huggingface/tokenizers describes, where it is BPE
// on bytes, or on characters with bytes for those it lacks.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/bpe_tokenizer.h"

namespace kvship {

// Errors name the file and the field. NotFound: no such file. InvalidArgument: not JSON, or a field
// that is missing, of the wrong type, or cannot be. Unimplemented: a part that kvship does not
// have.
absl::StatusOr<TokenizerParts> ReadHfTokenizer(const std::string& path);

}  // namespace kvship
