// The tokenizer that the metadata of a GGUF file describes.
#pragma once

#include "absl/status/statusor.h"
#include "engine/bpe_tokenizer.h"
#include "engine/gguf.h"

namespace kvship {

// InvalidArgument: metadata that is missing, of the wrong type, or cannot be. Unimplemented: a
// tokenizer model other than byte-level BPE ("gpt2") or SentencePiece's ("llama"), or a
// pre-tokenizer kvship does not know.
absl::StatusOr<TokenizerParts> ReadGgufTokenizer(const GgufFile& file);

}  // namespace kvship
