// The tokenizer that a tokenizer.json of huggingface/tokenizers describes, where it is BPE
// on bytes, or on characters with bytes for those it lacks, with what transformers keeps beside it
// in tokenizer_config.json.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/bpe_tokenizer.h"
#include "engine/json_file.h"

namespace kvship {

// Errors name the file and the field. NotFound: no such file. InvalidArgument: not JSON, or a field
// that is missing, of the wrong type, or cannot be. Unimplemented: a part that kvship does not
// have.
absl::StatusOr<TokenizerParts> ReadHfTokenizer(const std::string& path);

// Of tokenizer_config.json, bos_token and the like: a name, or an object with the name as its
// content. Empty where it has none.
absl::StatusOr<std::string> TokenName(const JsonObject& config, absl::string_view field);

}  // namespace kvship
