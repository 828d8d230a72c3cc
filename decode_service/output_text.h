// OutputText turns the bytes of output tokens into text that can be sent at once: always whole
// UTF-8, and never a part of what may become a stop text. Cutting the same bytes into other tokens
// gives the same text. One per request; not thread safe.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace kvship {

// Cuts bytes into whole UTF-8 characters. Each byte that belongs to none becomes U+FFFD, as the
// Unicode standard (section 3.9, "maximal subparts") recommends.
class Utf8Stream {
 public:
  // The characters completed by `bytes`; the unfinished rest, at most 3 bytes, is held back.
  std::string Add(absl::string_view bytes);
  // What was held back: an unfinished character becomes U+FFFD.
  std::string Finish();

 private:
  std::string rest_;
};

// Finds the first of some texts in a stream: the one that ends first, of several the longest.
class StopMatcher {
 public:
  // None of them may be empty.
  explicit StopMatcher(std::vector<std::string> stop) : stop_(std::move(stop)) {}

  // The text that can no longer become part of a stop text. Once matched(), the text before the
  // match; nothing after it. Unless they `may_end` in `text`, stop texts may only begin there.
  std::string Add(absl::string_view text, bool may_end = true);
  // What was held back.
  std::string Finish();

  bool matched() const { return matched_; }

 private:
  // Length of the longest end of `held_` that some stop text begins with.
  size_t BeginningAtEnd() const;

  std::vector<std::string> stop_;
  std::string held_;
  size_t num_passed_ = 0;  // bytes of held_ in which none may end
  bool matched_ = false;
};

class OutputText {
 public:
  explicit OutputText(std::vector<std::string> stop) : stop_(std::move(stop)) {}

  // Text that can be sent once a token of these bytes has come. Stop texts that end in it pass
  // unless it `may_stop` the output.
  std::string Add(absl::string_view token_bytes, bool may_stop = true) {
    return stop_.Add(utf8_.Add(token_bytes), may_stop);
  }
  // The rest, at the end of the output; empty after a stop text.
  std::string Finish() {
    std::string text = stop_.Add(utf8_.Finish());
    return text + stop_.Finish();
  }

  // A stop text has come: the output has ended before it.
  bool stopped() const { return stop_.matched(); }

 private:
  Utf8Stream utf8_;
  StopMatcher stop_;
};

}  // namespace kvship
