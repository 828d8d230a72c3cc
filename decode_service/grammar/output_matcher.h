// OutputMatcher constrains one output to a structure, such as JSON of a schema: after each token it
// returns the tokens allowed next. OutputGrammars compiles structures for a model's vocabulary,
// with XGrammar (Dong et al. 2024, arXiv 2411.15100), and caches them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "engine/sampling.h"
#include "engine/tokenizer.h"

namespace kvship {

// The state of one output within its structure. Not thread safe.
class OutputMatcher {
 public:
  virtual ~OutputMatcher() = default;
  // Advances by an output token. InvalidArgument if the token is not allowed.
  virtual absl::Status Accept(int32_t token) = 0;
  // Returns the tokens allowed next, end tokens included. Internal if there is none: the vocabulary
  // cannot spell the continuation, or the structure has none. InvalidArgument if the structure
  // takes too long to follow.
  virtual absl::StatusOr<TokenMask> Allowed() = 0;
};

// Thread safe.
class OutputGrammars {
 public:
  virtual ~OutputGrammars() = default;
  // Returns a matcher at the start of an output of this structure (output_structure.h); compiles
  // the structure unless cached. InvalidArgument, without a field, if it cannot be compiled.
  virtual absl::StatusOr<std::unique_ptr<OutputMatcher>> Match(const std::string& structure) = 0;
  // As Match, without compiling: null if the structure is not cached.
  virtual std::unique_ptr<OutputMatcher> Kept(const std::string& structure) = 0;
};

// `tokenizer` and `model` must outlive the result. Special tokens that are allowed as their names:
// `call_tokens` in structures that contain these, `thought_tokens` in free text beside calls.
std::unique_ptr<OutputGrammars> MakeOutputGrammars(const Tokenizer& tokenizer,
                                                   const ModelConfig& model,
                                                   std::span<const int32_t> call_tokens = {},
                                                   std::span<const int32_t> thought_tokens = {});

}  // namespace kvship
