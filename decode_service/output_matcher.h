// OutputMatcher holds one output to a structure, such as JSON of a schema: after each token it
// tells which may come next. OutputGrammars compiles structures over a model's vocabulary, by
// XGrammar (Dong et al. 2024, arXiv 2411.15100), and keeps what it has compiled.
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

// One output's place in its structure. Not thread safe.
class OutputMatcher {
 public:
  virtual ~OutputMatcher() = default;
  // Goes on by an output token. InvalidArgument: it is none of those allowed.
  virtual absl::Status Accept(int32_t token) = 0;
  // The tokens that may come next, of those that end the output, too. Internal: there is none, as
  // the vocabulary cannot spell what would have to follow, or nothing can.
  virtual absl::StatusOr<TokenMask> Allowed() = 0;
};

// Thread safe.
class OutputGrammars {
 public:
  virtual ~OutputGrammars() = default;
  // At the beginning of an output of this structure (decode_service/output_structure.h), which is
  // compiled unless it is kept. InvalidArgument, without a field: it cannot be.
  virtual absl::StatusOr<std::unique_ptr<OutputMatcher>> Match(const std::string& structure) = 0;
  // The same, soon; null: it would have to be compiled.
  virtual std::unique_ptr<OutputMatcher> Kept(const std::string& structure) = 0;
};

// Both must outlive it. `shown_tokens` are special ones that are allowed as their names, in
// structures that have these.
std::unique_ptr<OutputGrammars> MakeOutputGrammars(const Tokenizer& tokenizer,
                                                   const ModelConfig& model,
                                                   std::span<const int32_t> shown_tokens = {});

}  // namespace kvship
