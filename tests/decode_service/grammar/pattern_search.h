// Regular expressions as JSON schemas have them, searched for by PCRE2.
#pragma once

#include <gtest/gtest.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace kvship {

class PatternSearch {
 public:
  explicit PatternSearch(const std::string& pattern) {
    const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
        pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
    pcre2_set_compile_extra_options(context.get(), PCRE2_EXTRA_ALT_BSUX);  // \u{...}
    int error = 0;
    size_t at = 0;
    code_.reset(pcre2_compile(Bytes(pattern), pattern.size(), PCRE2_UTF | PCRE2_DOLLAR_ENDONLY,
                              &error, &at, context.get()));
    EXPECT_NE(code_, nullptr) << pattern << " at " << at;
  }

  bool Finds(absl::string_view text) const {
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(
        pcre2_match_data_create_from_pattern(code_.get(), nullptr), pcre2_match_data_free);
    return pcre2_match(code_.get(), Bytes(text), text.size(), 0, 0, match.get(), nullptr) >= 0;
  }

 private:
  static PCRE2_SPTR Bytes(absl::string_view text) {
    return reinterpret_cast<PCRE2_SPTR>(text.data());
  }

  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code_ = {nullptr, pcre2_code_free};
};

}  // namespace kvship
