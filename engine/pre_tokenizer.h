// PreTokenizer cuts text into the pieces that byte-pair encoding then treats one by one: words,
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

// One way of cutting: every match becomes a piece of its own, and so does what lies between.
struct SplitPattern {
  std::string pattern;
  bool is_regex = true;  // else text to be found as it is
};

// What byte-level BPE began with; source: encoder.py of openai/gpt-2.
inline constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class PreTokenizer {
 public:
  // Patterns apply in order, each to the pieces of the one before. Unimplemented, with the pattern,
  // if it is not one that PCRE2 reads as its author meant it.
  static absl::StatusOr<PreTokenizer> Create(const std::vector<SplitPattern>& patterns);

  // Replaces `pieces` by those of `text`, which must be valid UTF-8; they cover it without gaps.
  // ResourceExhausted if an expression exceeds its limit of steps on this text.
  absl::Status Split(absl::string_view text, std::vector<absl::string_view>& pieces) const;

 private:
  struct FreeCode {
    void operator()(void* code) const;
  };
  using Code = std::unique_ptr<void, FreeCode>;  // a pcre2_code

  std::vector<Code> codes_;
};

}  // namespace kvship
