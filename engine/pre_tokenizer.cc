#include "engine/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

// A match of the known patterns takes a few steps per character of a piece, with or without
// success. The limit lets a run of some million characters pass and stops a pattern that explodes.
constexpr uint32_t kMatchLimit = 50'000'000;

struct FreeMatch {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
using MatchData = std::unique_ptr<pcre2_match_data, FreeMatch>;
using MatchContext = std::unique_ptr<pcre2_match_context, FreeMatch>;

std::string ErrorText(int code) {
  char text[256] = {};
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof(text));
  return text;
}

// Patterns of tokenizer.json are written for Oniguruma. Of what means something else to PCRE2,
// white space is translated and the rest refused: intersections of character classes, \h for a
// hexadecimal digit, and words, which have other characters (marks).
absl::StatusOr<std::string> Translated(absl::string_view pattern) {
  const auto refused = [pattern](absl::string_view construct) {
    return absl::UnimplementedError(absl::StrCat("pre-tokenizer pattern ", pattern, " uses ",
                                                 construct, ", which kvship does not translate"));
  };
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '&' && absl::StartsWith(pattern.substr(i), "&&")) return refused("&&");
    out.push_back(pattern[i]);
    if (pattern[i] != '\\' || ++i == pattern.size()) continue;
    const char kind = pattern[i];
    if (absl::StrContains("hHwWbB", kind)) return refused(absl::StrCat("\\", std::string(1, kind)));
    // PCRE2's \s has U+180E too, which Unicode took out of white space in 2013.
    if (kind == 's' || kind == 'S') {
      absl::StrAppend(&out, kind == 's' ? "p" : "P", "{White_Space}");
    } else {
      out.push_back(kind);
    }
  }
  return out;
}

// Where the character after text[i] begins.
size_t NextCharacter(absl::string_view text, size_t i) {
  do ++i;
  while (i < text.size() && (static_cast<unsigned char>(text[i]) & 0xc0) == 0x80);
  return i;
}

// Cuts one piece at the matches of one pattern and appends what comes of it.
absl::Status SplitPiece(const pcre2_code* code, pcre2_match_data* match,
                        pcre2_match_context* context, absl::string_view piece,
                        std::vector<absl::string_view>& out) {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(piece.data());
  size_t done = 0;
  for (size_t from = 0; from < piece.size();) {
    const int count =
        pcre2_match(code, subject, piece.size(), from, PCRE2_NO_UTF_CHECK, match, context);
    if (count == PCRE2_ERROR_NOMATCH) break;
    if (count < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("pre-tokenizer stopped ", piece.size() - from,
                       " bytes before the end of a piece of text: ", ErrorText(count)));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match);
    const size_t begin = bounds[0];
    const size_t end = bounds[1];
    if (end <= begin) {  // an empty match cuts nothing
      from = NextCharacter(piece, begin);
      continue;
    }
    if (begin > done) out.push_back(piece.substr(done, begin - done));
    out.push_back(piece.substr(begin, end - begin));
    done = from = end;
  }
  if (done < piece.size()) out.push_back(piece.substr(done));
  return absl::OkStatus();
}

}  // namespace

void PreTokenizer::FreeCode::operator()(void* code) const {
  pcre2_code_free(static_cast<pcre2_code*>(code));
}

absl::StatusOr<PreTokenizer> PreTokenizer::Create(const std::vector<SplitPattern>& patterns) {
  PreTokenizer out;
  for (const SplitPattern& pattern : patterns) {
    std::string text = pattern.pattern;
    if (pattern.is_regex) {
      ASSIGN_OR_RETURN(text, Translated(text));
    }
    // Oniguruma's ^ and $ stand at line ends, hence MULTILINE.
    const uint32_t options =
        PCRE2_UTF |
        (pattern.is_regex ? PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C : PCRE2_LITERAL);
    int error = 0;
    PCRE2_SIZE offset = 0;
    Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), options, &error,
                            &offset, nullptr));
    if (code == nullptr) {
      return absl::UnimplementedError(absl::StrCat("pre-tokenizer pattern ", pattern.pattern, ": ",
                                                   ErrorText(error), " at ", offset));
    }
    // Without a just-in-time compiler the interpreter does the same, slower.
    pcre2_jit_compile(static_cast<pcre2_code*>(code.get()), PCRE2_JIT_COMPLETE);
    out.codes_.push_back(std::move(code));
  }
  return out;
}

absl::Status PreTokenizer::Split(absl::string_view text,
                                 std::vector<absl::string_view>& pieces) const {
  pieces.clear();
  if (text.empty()) return absl::OkStatus();
  pieces.push_back(text);
  const MatchData match(pcre2_match_data_create(1, nullptr));
  const MatchContext context(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(context.get(), kMatchLimit);
  std::vector<absl::string_view> cut;
  for (const Code& code : codes_) {
    cut.clear();
    cut.reserve(pieces.size());
    for (const absl::string_view piece : pieces) {
      RETURN_IF_ERROR(SplitPiece(static_cast<const pcre2_code*>(code.get()), match.get(),
                                 context.get(), piece, cut));
    }
    pieces.swap(cut);
  }
  return absl::OkStatus();
}

}  // namespace kvship
