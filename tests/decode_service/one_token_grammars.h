// Output grammars that a test holds up.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "decode_service/grammar/output_matcher.h"

namespace kvship {

// Of every structure: its outputs begin with this token. Without one nothing can be compiled. None
// is kept, and each is compiled once `may_go_on` is true.
class OneTokenGrammars final : public OutputGrammars {
 public:
  explicit OneTokenGrammars(std::optional<int32_t> token) : token_(token) {}

  absl::StatusOr<std::unique_ptr<OutputMatcher>> Match(const std::string&) override {
    ++num_compiled;
    while (!may_go_on) std::this_thread::yield();
    if (!token_) return absl::InvalidArgumentError("too odd");
    return std::make_unique<Matcher>(*token_);
  }
  std::unique_ptr<OutputMatcher> Kept(const std::string&) override { return nullptr; }

  std::atomic<int> num_compiled = 0;
  std::atomic<bool> may_go_on = true;

 private:
  class Matcher final : public OutputMatcher {
   public:
    explicit Matcher(int32_t token) : token_(token) {}
    absl::Status Accept(int32_t) override { return absl::OkStatus(); }
    absl::StatusOr<TokenMask> Allowed() override {
      TokenMask mask(TokenMaskWords(320));
      mask[token_ / 32] |= 1u << token_ % 32;
      return mask;
    }

   private:
    const int32_t token_;
  };

  const std::optional<int32_t> token_;
};

}  // namespace kvship
