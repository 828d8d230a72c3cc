// OutputText turns the bytes of output tokens into text that can be sent at once: always whole
// UTF-8, and never part of a possible stop text. The text does not depend on how the bytes are
// split into tokens. One per request; not thread safe.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace kvship {

// Decodes a stream of bytes into whole UTF-8 characters. Each invalid sequence becomes one U+FFFD,
// as the Unicode standard (section 3.9, "maximal subparts") recommends.
class Utf8Stream {
 public:
  // Returns the characters that `bytes` completes; holds back an unfinished one, at most 3 bytes.
  std::string Add(absl::string_view bytes);
  // Returns what was held back: an unfinished character becomes U+FFFD.
  std::string Finish();

 private:
  std::string rest_;
};

// Finds the first stop text in a stream: the one that ends first, the longest if several do.
class StopMatcher {
 public:
  // No stop text may be empty.
  explicit StopMatcher(std::vector<std::string> stop) : stop_(std::move(stop)) {}

  // Returns the text that can no longer become part of a stop text. Once matched(), returns the
  // text before the match, then nothing. Unless `may_end`, no stop text ends in `text`; one may
  // begin there.
  std::string Add(absl::string_view text, bool may_end = true);
  // Returns what was held back.
  std::string Finish();

  bool matched() const { return matched_; }

 private:
  // Length of the longest suffix of `held_` that is a prefix of a stop text.
  size_t BeginningAtEnd() const;

  std::vector<std::string> stop_;
  std::string held_;
  size_t num_passed_ = 0;  // bytes of held_ in which no stop text may end
  bool matched_ = false;
};

class OutputText {
 public:
  explicit OutputText(std::vector<std::string> stop) : stop_(std::move(stop)) {}

  // Returns the text that can be sent after a token of these bytes. Unless `may_stop`, stop texts
  // that end in the token are ignored.
  std::string Add(absl::string_view token_bytes, bool may_stop = true) {
    return stop_.Add(utf8_.Add(token_bytes), may_stop);
  }
  // Returns the rest, at the end of the output; empty after a stop text.
  std::string Finish() {
    std::string text = stop_.Add(utf8_.Finish());
    return text + stop_.Finish();
  }

  // Returns whether a stop text was found: the output ends before it.
  bool stopped() const { return stop_.matched(); }

 private:
  Utf8Stream utf8_;
  StopMatcher stop_;
};

}  // namespace kvship
