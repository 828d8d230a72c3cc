#include "engine/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
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

// Where what begins at pattern[i], a brace of digits and a comma, ends; 0 if it is no such
// interval.
size_t IntervalEnd(absl::string_view pattern, size_t i) {
  const size_t end = pattern.find_first_not_of("0123456789,", i + 1);
  const bool is_interval = end != absl::string_view::npos && pattern[end] == '}' && end > i + 1;
  return is_interval ? end + 1 : 0;
}

// What is refused of what begins at pattern[i], unescaped; empty if nothing is.
absl::string_view Refused(absl::string_view pattern, size_t i, bool is_in_class) {
  const absl::string_view rest = pattern.substr(i);
  if (absl::StartsWith(rest, "&&")) return "&&";
  if (is_in_class) {
    if (rest[0] != '[') return "";
    return absl::StartsWith(rest, "[:") ? "a POSIX class ([:name:])" : "a class in a class";
  }
  if (absl::StartsWith(rest, "(?") &&
      absl::StrContains(rest.substr(0, rest.find_first_not_of("imsx-", 2)), 'm')) {
    return "the option m";
  }
  const size_t end = rest[0] == '{' ? IntervalEnd(pattern, i) : 0;
  if (end == 0) return "";
  const absl::string_view behind = pattern.substr(end);
  if (pattern[i + 1] == ',') return "{,m}";
  if (absl::StartsWith(behind, "+")) return "+ behind {n,m}";
  const bool is_fixed = !absl::StrContains(pattern.substr(i, end - i), ',');
  return is_fixed && absl::StartsWith(behind, "?") ? "? behind {n}" : "";
}

bool Compiles(const std::string& pattern) {
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* const code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()),
                                         pattern.size(), PCRE2_UTF, &error, &at, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

// What PCRE2 calls the property of \p{name}: to it a script's bare name means more.
std::string PropertyName(absl::string_view name) {
  const absl::string_view sign = absl::ConsumePrefix(&name, "^") ? "^" : "";
  const std::string script = absl::StrCat("sc:", name);
  const bool is_script = Compiles(absl::StrCat("\\p{", script, "}"));
  return absl::StrCat(sign, is_script ? absl::string_view(script) : name);
}

// Patterns of tokenizer.json are written for Oniguruma. Of what means something else to PCRE2,
// white space and scripts (to PCRE2 also the characters that a script shares with others) are
// translated and the rest refused: intersections of character classes and classes in them; POSIX
// classes and words, which have other characters (marks, symbols); \h and \v, a hexadecimal digit
// and one character; quotes; an option whose letter is that of another; intervals that are
// possessive to one and repeated to the other.
absl::StatusOr<std::string> Translated(absl::string_view pattern) {
  const auto refused = [pattern](absl::string_view construct) {
    return absl::UnimplementedError(absl::StrCat("pre-tokenizer pattern ", pattern, " uses ",
                                                 construct, ", which kvship does not translate"));
  };
  std::string out;
  bool is_in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (const absl::string_view construct = Refused(pattern, i, is_in_class); !construct.empty()) {
      return refused(construct);
    }
    out.push_back(pattern[i]);
    if (is_in_class) {
      is_in_class = pattern[i] != ']';
    } else if (pattern[i] == '[') {
      is_in_class = true;
      // A bracket at the beginning of a class is one of its characters.
      for (const char first : {'^', ']'}) {
        if (absl::StartsWith(pattern.substr(i + 1), std::string(1, first))) {
          out.push_back(pattern[++i]);
        }
      }
    }
    if (pattern[i] != '\\' || ++i == pattern.size()) continue;
    const char kind = pattern[i];
    if (absl::StrContains("hHvVwWbBQE", kind))
      return refused(absl::StrCat("\\", std::string(1, kind)));
    // PCRE2's \s has U+180E too, which Unicode took out of white space in 2013.
    if (kind == 's' || kind == 'S') {
      absl::StrAppend(&out, kind == 's' ? "p" : "P", "{White_Space}");
    } else {
      out.push_back(kind);
    }
    const size_t end = pattern.find('}', i);
    if ((kind == 'p' || kind == 'P') && end != absl::string_view::npos &&
        absl::StartsWith(pattern.substr(i + 1), "{")) {
      absl::StrAppend(&out, "{", PropertyName(pattern.substr(i + 2, end - i - 2)), "}");
      i = end;
    }
    // Braces of \x{...} are none of an interval.
    if (kind == 'x' && absl::StartsWith(pattern.substr(i + 1), "{")) out.push_back(pattern[++i]);
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
    if (begin > done) out.push_back(piece.substr(done, begin - done));
    if (end > begin) out.push_back(piece.substr(begin, end - begin));
    done = end;
    from = end > begin ? end : NextCharacter(piece, begin);  // an empty match cuts, too
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
