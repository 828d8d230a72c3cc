// PreTokenizer splits text into the pieces that byte-pair encoding handles one by one: words,
// numbers, punctuation and white space, by the model's own regular expressions. Immutable; any
// number of threads may use it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

// One split: every match becomes a piece of its own, and so does the text between matches.
struct SplitPattern {
  std::string pattern;
  bool is_regex = true;  // false: literal text
};

// GPT-2's pattern, the first of byte-level BPE; source: encoder.py of openai/gpt-2.
inline constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class PreTokenizer {
 public:
  // Patterns apply in order, each to the pieces of the previous one. Unimplemented, naming the
  // pattern, if PCRE2 does not read it as its author meant it.
  static absl::StatusOr<PreTokenizer> Create(const std::vector<SplitPattern>& patterns);

  // Replaces `pieces` with those of `text`, which must be valid UTF-8; they cover it without gaps.
  // ResourceExhausted if an expression exceeds its step limit on this text.
  absl::Status Split(absl::string_view text, std::vector<absl::string_view>& pieces) const;

 private:
  struct FreeCode {
    void operator()(void* code) const;
  };
  using Code = std::unique_ptr<void, FreeCode>;  // a pcre2_code

  std::vector<Code> codes_;
};

}  // namespace kvship
