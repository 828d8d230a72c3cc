#include "decode_service/grammar/output_matcher.h"

#include <dlpack/dlpack.h>
#include <time.h>
#include <xgrammar/xgrammar.h>

#include <algorithm>
#include <list>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "decode_service/grammar/structural_tag.h"
#include "engine/end_tokens.h"

namespace {

// XGrammar's last warning on this thread that it will not do as asked.
thread_local std::string warning;

}  // namespace

// XGrammar's hooks for errors and warnings (its cpp/support/logging.h).
namespace xgrammar {

[[noreturn]] void LogFatalImpl(const std::string& file, int line, const std::string& message);
void LogMessageImpl(const std::string& file, int line, int level, const std::string& message);

void LogFatalImpl(const std::string& /*file*/, int /*line*/, const std::string& message) {
  throw std::runtime_error(message);
}

void LogMessageImpl(const std::string& /*file*/, int /*line*/, int /*level*/,
                    const std::string& message) {
  warning = message;
}

}  // namespace xgrammar

namespace kvship {
namespace {

// For compiled structures.
constexpr size_t kKeptBytes = 256 << 20;

// Calls XGrammar. InvalidArgument if it throws, or warns that it will not do as asked.
template <typename Function>
absl::Status Checked(const Function& function) {
  // The message may quote a whole schema.
  constexpr size_t kMostShown = 200;
  warning.clear();
  try {
    function();
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    warning = error.what();
    if (warning.empty()) warning = "a number is too large";
  }
  if (warning.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(warning.substr(0, kMostShown));
}

xgrammar::TokenizerInfo Vocabulary(const Tokenizer& tokenizer, const ModelConfig& model,
                                   std::span<const int32_t> call_tokens,
                                   std::span<const int32_t> thought_tokens) {
  // Tokens without bytes are never allowed: special ones, and model rows without a token.
  std::vector<std::string> tokens(model.vocab_tokens);
  for (size_t id = 0; id < tokens.size(); ++id) {
    const auto token = static_cast<int32_t>(id);
    if (!tokenizer.IsSpecial(token)) tokens[id] = std::string(tokenizer.TokenBytes(token));
  }
  for (const auto& named : {call_tokens, thought_tokens}) {
    for (const int32_t token : named) tokens[token] = std::string(tokenizer.TokenBytes(token));
  }
  return xgrammar::TokenizerInfo(tokens, xgrammar::VocabType::RAW,
                                 static_cast<int>(model.vocab_tokens),
                                 EndTokens(model, &tokenizer));
}

// Adds the processor's time that a scope takes of its thread.
class TimeSpent {
 public:
  explicit TimeSpent(absl::Duration* sum) : sum_(sum), begun_(Now()) {}
  ~TimeSpent() { *sum_ += Now() - begun_; }
  TimeSpent(const TimeSpent&) = delete;
  TimeSpent& operator=(const TimeSpent&) = delete;

 private:
  static absl::Duration Now() {
    timespec now = {};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return absl::DurationFromTimespec(now);
  }

  absl::Duration* const sum_;
  const absl::Duration begun_;
};

class XgrammarMatcher final : public OutputMatcher {
 public:
  // `hidden_tokens` are never allowed.
  XgrammarMatcher(const xgrammar::CompiledGrammar& grammar, size_t vocab_tokens,
                  std::vector<int32_t> hidden_tokens)
      : matcher_(grammar), vocab_tokens_(vocab_tokens), hidden_tokens_(std::move(hidden_tokens)) {}

  absl::Status Accept(int32_t token) override {
    const TimeSpent spent(&spent_);
    ++num_tokens_;
    bool accepted =
        std::find(hidden_tokens_.begin(), hidden_tokens_.end(), token) == hidden_tokens_.end();
    if (accepted) RETURN_IF_ERROR(Checked([&] { accepted = matcher_.AcceptToken(token); }));
    if (accepted) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("the token ", token, " is none of those that the output's structure allows"));
  }

  absl::StatusOr<TokenMask> Allowed() override {
    if (spent_ > kMostTime + num_tokens_ * kMostTimePerToken) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the output's structure takes too long to follow: ", absl::FormatDuration(spent_),
          " of a processor for ", num_tokens_,
          " tokens; wanted fewer alternatives that begin alike, or that lead back to one another"));
    }
    const TimeSpent spent(&spent_);
    TokenMask mask(TokenMaskWords(vocab_tokens_));
    int64_t shape = static_cast<int64_t>(mask.size());
    DLTensor tensor = {.data = mask.data(),
                       .device = {kDLCPU, 0},
                       .ndim = 1,
                       .dtype = xgrammar::GetBitmaskDLType(),
                       .shape = &shape,
                       .strides = nullptr,
                       .byte_offset = 0};
    bool is_some = false;
    const absl::Status status = Checked([&] { is_some = matcher_.FillNextTokenBitmask(&tensor); });
    if (!status.ok()) return absl::InternalError(status.message());
    if (!is_some) return AllTokensBut(hidden_tokens_, vocab_tokens_);
    for (const int32_t token : hidden_tokens_) mask[token / 32] &= ~(uint32_t{1} << (token % 32));
    for (const uint32_t word : mask) {
      if (word != 0) return mask;
    }
    return absl::InternalError(
        "the model's vocabulary has no token for what the output's structure wants next, if that "
        "is anything");
  }

 private:
  // What one output may take of a processor. XGrammar's time for a token grows with the square of
  // the alternatives that are open, which in a recursive schema no bound on its parts holds down;
  // dozens of kinds of nodes in a tree take 3 ms.
  static constexpr absl::Duration kMostTime = absl::Milliseconds(500);
  static constexpr absl::Duration kMostTimePerToken = absl::Milliseconds(10);

  xgrammar::GrammarMatcher matcher_;
  const size_t vocab_tokens_;
  const std::vector<int32_t> hidden_tokens_;
  absl::Duration spent_;
  int64_t num_tokens_ = 0;
};

// An LRU cache of compiled structures. (XGrammar's own cache also keeps structures that it rejects,
// and returns them later without the warning.) Thread safe.
class GrammarCache {
 public:
  std::optional<xgrammar::CompiledGrammar> Find(const std::string& structure) {
    std::lock_guard lock(mutex_);
    const auto found = places_.find(structure);
    if (found == places_.end()) return std::nullopt;
    entries_.splice(entries_.begin(), entries_, found->second);
    return entries_.front().grammar;
  }

  void Add(const std::string& structure, const xgrammar::CompiledGrammar& grammar) {
    const size_t num_bytes = 2 * structure.size() + grammar.MemorySizeBytes();
    std::lock_guard lock(mutex_);
    if (places_.contains(structure)) return;  // another thread was faster
    entries_.push_front({structure, grammar, num_bytes});
    places_[structure] = entries_.begin();
    for (num_bytes_ += num_bytes; num_bytes_ > kKeptBytes; entries_.pop_back()) {
      num_bytes_ -= entries_.back().num_bytes;
      places_.erase(entries_.back().structure);
    }
  }

 private:
  struct Entry {
    std::string structure;
    xgrammar::CompiledGrammar grammar;
    size_t num_bytes;
  };

  std::mutex mutex_;
  std::list<Entry> entries_;
  std::unordered_map<std::string, std::list<Entry>::iterator> places_;
  size_t num_bytes_ = 0;
};

class XgrammarGrammars final : public OutputGrammars {
 public:
  XgrammarGrammars(const Tokenizer& tokenizer, const ModelConfig& model,
                   std::span<const int32_t> call_tokens, std::span<const int32_t> thought_tokens)
      : tokenizer_(tokenizer),
        model_(model),
        call_tokens_(call_tokens.begin(), call_tokens.end()),
        thought_tokens_(thought_tokens.begin(), thought_tokens.end()) {}

  absl::StatusOr<std::unique_ptr<OutputMatcher>> Match(const std::string& structure) override {
    std::unique_ptr<OutputMatcher> matcher = Kept(structure);
    if (matcher != nullptr) return matcher;
    RETURN_IF_ERROR(Checked([&] {
      std::call_once(made_, [this] {
        compiler_.emplace(Vocabulary(tokenizer_, model_, call_tokens_, thought_tokens_),
                          /*max_threads=*/1,
                          /*cache_enabled=*/false);
      });
      const auto grammar = compiler_->CompileStructuralTag(structure);
      matcher =
          std::make_unique<XgrammarMatcher>(grammar, model_.vocab_tokens, HiddenTokens(structure));
      if (warning.empty()) cache_.Add(structure, grammar);
    }));
    return matcher;
  }

  std::unique_ptr<OutputMatcher> Kept(const std::string& structure) override {
    const auto grammar = cache_.Find(structure);
    if (!grammar) return nullptr;
    return std::make_unique<XgrammarMatcher>(*grammar, model_.vocab_tokens,
                                             HiddenTokens(structure));
  }

 private:
  // Tokens with a name that the structure has no place for.
  std::vector<int32_t> HiddenTokens(const std::string& structure) const {
    std::vector<int32_t> hidden;
    for (const int32_t token : call_tokens_) {
      if (!absl::StrContains(structure, tokenizer_.TokenBytes(token))) hidden.push_back(token);
    }
    // Any string of JSON could have their names, too.
    if (!absl::StrContains(structure, kFreeText)) {
      hidden.insert(hidden.end(), thought_tokens_.begin(), thought_tokens_.end());
    }
    return hidden;
  }

  const Tokenizer& tokenizer_;
  const ModelConfig& model_;
  const std::vector<int32_t> call_tokens_, thought_tokens_;
  std::once_flag made_;
  std::optional<xgrammar::GrammarCompiler> compiler_;  // created on first use: slow
  GrammarCache cache_;
};

}  // namespace

std::unique_ptr<OutputGrammars> MakeOutputGrammars(const Tokenizer& tokenizer,
                                                   const ModelConfig& model,
                                                   std::span<const int32_t> call_tokens,
                                                   std::span<const int32_t> thought_tokens) {
  return std::make_unique<XgrammarGrammars>(tokenizer, model, call_tokens, thought_tokens);
}

}  // namespace kvship
