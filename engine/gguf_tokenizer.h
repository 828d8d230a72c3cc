// Reads the tokenizer from a GGUF file's metadata. A pure function.
#pragma once

#include "absl/status/statusor.h"
#include "engine/bpe_tokenizer.h"
#include "engine/gguf.h"

namespace kvship {

// InvalidArgument: metadata is missing, of the wrong type, or invalid. Unimplemented: a tokenizer
// model other than byte-level BPE ("gpt2") or SentencePiece's ("llama"), or a pre-tokenizer that
// kvship does not know.
absl::StatusOr<TokenizerParts> ReadGgufTokenizer(const GgufFile& file);

}  // namespace kvship
