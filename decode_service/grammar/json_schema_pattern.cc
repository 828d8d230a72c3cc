#include "decode_service/grammar/json_schema_pattern.h"

#include <utf8proc.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace kvship {
namespace {

constexpr size_t kMostPatternCharacters = 1000;  // of a pattern
constexpr size_t kMostPositions = 1000;          // with repetitions written out
// Groups and bars have no positions, but cost XGrammar time and memory, too: the limit of all
// three, with repetitions written out.
constexpr size_t kMostParts = 4 * kMostPositions;
constexpr size_t kMostTimes = 128;   // above, XGrammar uses counters: a thousand times slower
constexpr size_t kMostRanges = 100;  // of a set
constexpr int kMostDepth = 32;       // of groups

// Characters that JSON strings need not escape; no range mixes lengths in UTF-8.
const CharacterSet kPlain = {{' ', '!'},      {'#', '['},       {']', 0x7f},        {0x80, 0x7ff},
                             {0x800, 0xd7ff}, {0xe000, 0xffff}, {0x10000, 0x10ffff}};
const CharacterSet kDigits = {{'0', '9'}};
const CharacterSet kWord = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CharacterSet kSpace = {{'\t', '\r'},     {' ', ' '},       {0xa0, 0xa0},     {0x1680, 0x1680},
                             {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f},
                             {0x3000, 0x3000}, {0xfeff, 0xfeff}};
const CharacterSet kLineEnds = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

// The plain characters outside the set.
CharacterSet PlainBut(CharacterSet set) {
  std::sort(set.begin(), set.end(),
            [](CharacterRange a, CharacterRange b) { return a.first < b.first; });
  CharacterSet others;
  for (CharacterRange plain : kPlain) {
    for (const CharacterRange& range : set) {
      if (range.last < plain.first || range.first > plain.last) continue;
      if (range.first > plain.first) others.push_back({plain.first, range.first - 1});
      plain.first = range.last + 1;
    }
    if (plain.first <= plain.last) others.push_back(plain);
  }
  return others;
}

int Utf8Bytes(char32_t c) { return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4; }

// Writes one set per length in UTF-8: for mixed sets XGrammar would accept overlong forms.
std::string SetText(const CharacterSet& set) {
  std::string text;
  int length = 0;
  for (const auto& [first, last] : set) {
    if (Utf8Bytes(first) != length) text += length == 0 ? "(?:[" : "]|[";
    length = Utf8Bytes(first);
    absl::StrAppendFormat(&text, "\\u{%x}", uint32_t{first});
    if (first != last) absl::StrAppendFormat(&text, "-\\u{%x}", uint32_t{last});
  }
  return text + "])";
}

std::u32string Decoded(absl::string_view text) {
  const auto* const bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  std::u32string characters;
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t character = 0;
    const auto left = static_cast<utf8proc_ssize_t>(text.size() - at);
    at += std::max<utf8proc_ssize_t>(utf8proc_iterate(bytes + at, left, &character), 1);
    characters.push_back(static_cast<char32_t>(character));
  }
  return characters;
}

bool IsAscii(char32_t c) { return c < 0x80; }

class Reader {
 public:
  Reader(std::u32string pattern, absl::string_view without) : pattern_(std::move(pattern)) {
    for (const char c : without) without_.push_back({char32_t(c), char32_t(c)});
  }

  absl::StatusOr<SchemaPattern> Read() {
    ASSIGN_OR_RETURN(const Part whole, ReadAlternatives(0));
    if (at_ < pattern_.size()) return Without(at_);  // an unmatched )
    return SchemaPattern{absl::StrCat("^", whole.text, "$"), positions_.CostOf(whole.positions)};
  }

 private:
  struct Part {
    std::string text;  // for XGrammar
    PatternPositions::Part positions;
    size_t num_parts = 0;  // characters, groups and bars, with repetitions written out
  };

  char32_t Next() const { return at_ < pattern_.size() ? pattern_[at_] : U'\0'; }
  bool Take(char32_t wanted) {
    if (Next() != wanted || at_ == pattern_.size()) return false;
    ++at_;
    return true;
  }

  static absl::Status Wrong(absl::string_view wanted, size_t at) {
    return absl::InvalidArgumentError(absl::StrCat(wanted, " at its character ", at));
  }
  // The error that the pattern's `count` characters at `at` are unsupported.
  absl::Status Without(size_t at, size_t count = 1) const {
    const auto is_shown = [](char32_t c) { return c > ' ' && c < 0x7f; };
    const std::u32string shown = pattern_.substr(at, count);
    if (!std::all_of(shown.begin(), shown.end(), is_shown)) return Wrong("something else", at);
    return Wrong(absl::StrCat("it without ", std::string(shown.begin(), shown.end())), at);
  }

  Part InTurn(Part a, const Part& b) {
    return {a.text + b.text, positions_.InTurn(std::move(a.positions), b.positions),
            a.num_parts + b.num_parts};
  }

  absl::StatusOr<Part> ReadAlternatives(int depth) {
    ASSIGN_OR_RETURN(Part all, ReadSequence(depth));
    while (Take('|')) {
      ASSIGN_OR_RETURN(const Part next, ReadSequence(depth));
      all = {absl::StrCat(all.text, "|", next.text),
             PatternPositions::Either(std::move(all.positions), next.positions),
             all.num_parts + 1 + next.num_parts};
    }
    all.text = absl::StrCat("(?:", all.text, ")");
    ++all.num_parts;
    return all;
  }

  Part Others() {
    const CharacterSet set = PlainBut(without_);
    return {SetText(set) + "*", positions_.Repeated(positions_.OneOf(set), 0, {}), 1};
  }

  absl::StatusOr<Part> ReadSequence(int depth) {
    const bool is_whole = depth == 0;  // not in a group
    Part sequence;
    sequence.positions.begin = positions_.size();
    if (is_whole && !Take('^')) sequence = Others();
    while (at_ < pattern_.size() && Next() != '|' && Next() != ')') {
      if (is_whole && Take('$')) {
        if (at_ < pattern_.size() && Next() != '|') return Without(at_ - 1);
        return sequence;
      }
      ASSIGN_OR_RETURN(const Part part, ReadRepeated(depth));
      sequence = InTurn(std::move(sequence), part);
    }
    if (is_whole) sequence = InTurn(std::move(sequence), Others());
    return sequence;
  }

  static absl::Status TooLong() {
    return absl::InvalidArgumentError(
        absl::StrCat("at most ", kMostPositions, " characters, repetitions written out"));
  }

  absl::StatusOr<Part> ReadRepeated(int depth) {
    ASSIGN_OR_RETURN(Part part, ReadAtom(depth));
    size_t least = 0;
    std::optional<size_t> most;
    if (Take('+')) {
      least = 1;
    } else if (Take('?')) {
      most = 1;
    } else if (Take('{')) {
      RETURN_IF_ERROR(ReadBounds(&least, &most));
    } else if (!Take('*')) {
      return part;
    }
    Take('?');  // lazy: matches the same strings
    return Repeated(part, least, most);
  }

  absl::StatusOr<Part> Repeated(const Part& part, size_t least, std::optional<size_t> most) {
    if (std::max(least, most.value_or(0)) > kMostTimes) {
      return absl::InvalidArgumentError(
          absl::StrCat("at most ", kMostTimes, " repetitions of a part"));
    }
    const size_t num_positions = positions_.size() - part.positions.begin;
    if (positions_.size() + num_positions * most.value_or(least) > kMostPositions) return TooLong();
    const size_t num_copies = most ? *most : least < 2 ? 1 : least + 1;
    const size_t num_parts = part.num_parts * std::max<size_t>(num_copies, 1);
    if (num_parts > kMostParts) return TooLong();
    // XGrammar's own ? and {2,} accept further strings after a part whose end may repeat.
    const std::string text = most        ? absl::StrCat(part.text, "{", least, ",", *most, "}")
                             : least < 2 ? absl::StrCat(part.text, least == 0 ? "*" : "+")
                                         : absl::StrCat(part.text, "{", least, "}", part.text, "*");
    return Part{text, positions_.Repeated(part.positions, least, most), num_parts};
  }

  // After the brace: {2}, {2,} or {2,3}.
  absl::Status ReadBounds(size_t* least, std::optional<size_t>* most) {
    const size_t begin = at_ - 1;
    const std::optional<size_t> first = ReadNumber();
    *most = first;
    if (Take(',')) *most = Next() == '}' ? std::nullopt : std::optional(ReadNumber().value_or(0));
    if (!first || (*most && (**most < *first || **most == 0)) || !Take('}')) {
      return Wrong("bounds as in {2}, {2,} or {2,3}", begin);
    }
    *least = *first;
    return absl::OkStatus();
  }

  std::optional<size_t> ReadNumber() {
    constexpr size_t kEnough = 1'000'000;
    std::optional<size_t> number;
    while (IsAscii(Next()) && absl::ascii_isdigit(static_cast<char>(Next()))) {
      number = std::min(number.value_or(0) * 10 + (pattern_[at_++] - '0'), kEnough);
    }
    return number;
  }

  absl::StatusOr<Part> ReadAtom(int depth) {
    const size_t begin = at_;
    if (Take('(')) return ReadGroup(depth);
    CharacterSet set;
    if (Take('[')) {
      ASSIGN_OR_RETURN(set, ReadSet());
    } else if (Take('\\')) {
      ASSIGN_OR_RETURN(set, ReadEscape(/*in_set=*/false));
    } else if (Take('.')) {
      set = PlainBut(kLineEnds);
    } else {
      constexpr absl::string_view kNoLiterals = "^$*+?{}]";
      const char32_t next = Next();
      if (IsAscii(next) && kNoLiterals.find(static_cast<char>(next)) != absl::string_view::npos) {
        return Without(at_);
      }
      set = {{next, next}};
      ++at_;
    }
    CharacterSet others = PlainBut(set);
    others.insert(others.end(), without_.begin(), without_.end());
    set = PlainBut(others);
    if (set.size() > kMostRanges) {
      return Wrong(absl::StrCat("at most ", kMostRanges, " ranges of characters"), begin);
    }
    if (set.empty()) return Wrong("a character that JSON writes without an escape", begin);
    if (positions_.size() == kMostPositions) return TooLong();
    return Part{SetText(set), positions_.OneOf(set), 1};
  }

  absl::StatusOr<Part> ReadGroup(int depth) {
    const size_t begin = at_ - 1;
    if (Take('?')) {
      if (Take('<') && Next() != '=' && Next() != '!') {
        while (at_ < pattern_.size() && Next() != '>') ++at_;  // its name
        Take('>');
      } else if (pattern_[at_ - 1] == '<' || !Take(':')) {
        return Without(begin, at_ + 1 - begin);
      }
    }
    if (depth == kMostDepth) return Wrong("no deeper groups", begin);
    ASSIGN_OR_RETURN(Part group, ReadAlternatives(depth + 1));
    if (!Take(')')) return Wrong("a ) for the (", begin);
    return group;
  }

  absl::StatusOr<CharacterSet> ReadSet() {
    const size_t begin = at_ - 1;
    const bool is_negated = Take('^');
    CharacterSet set;
    do {
      ASSIGN_OR_RETURN(const CharacterSet first, ReadMember(begin));
      set.insert(set.end(), first.begin(), first.end());
      const bool is_range = Next() == '-' && at_ + 1 < pattern_.size() && pattern_[at_ + 1] != ']';
      if (!is_range) continue;
      const size_t dash = at_++;
      ASSIGN_OR_RETURN(const CharacterSet last, ReadMember(begin));
      const auto is_one = [](const CharacterSet& each) {
        return each.size() == 1 && each[0].first == each[0].last;
      };
      if (!is_one(first) || !is_one(last) || first[0].first > last[0].first) {
        return Wrong("- between two characters in their order", dash);
      }
      set.back().last = last[0].last;
    } while (!Take(']'));
    return is_negated ? PlainBut(set) : set;
  }

  // Reads one member of the set that begins at `begin`.
  absl::StatusOr<CharacterSet> ReadMember(size_t begin) {
    if (at_ == pattern_.size()) return Wrong("a ] for the [", begin);
    const char32_t next = pattern_[at_++];
    if (next == '\\') return ReadEscape(/*in_set=*/true);
    // Dialects differ on a ] in first place: a member or the end.
    if (next == ']') return Wrong("something before the ]", at_ - 1);
    return CharacterSet{{next, next}};
  }

  // After the backslash.
  absl::StatusOr<CharacterSet> ReadEscape(bool in_set) {
    const size_t begin = at_ - 1;
    if (at_ == pattern_.size()) return Wrong("something behind the backslash", begin);
    const char32_t next = pattern_[at_++];
    switch (next) {
      case 'd': return kDigits;
      case 'D': return PlainBut(kDigits);
      case 'w': return kWord;
      case 'W': return PlainBut(kWord);
      case 's': return kSpace;
      case 'S': return PlainBut(kSpace);
      case 'x': return ReadCode(begin, 2);
      case 'u': return ReadCode(begin, 4);
      default: break;
    }
    // Strings of these patterns have no control characters.
    const bool is_control = std::u32string_view(U"fnrtv").find(next) != std::u32string_view::npos;
    if (is_control || (in_set && next == 'b')) return CharacterSet{{'\n', '\n'}};
    if (!IsAscii(next) || !absl::ascii_ispunct(static_cast<char>(next))) return Without(begin, 2);
    return CharacterSet{{next, next}};
  }

  // Reads `num_digits` hexadecimal digits; a character above 0xffff is in braces or two surrogates.
  absl::StatusOr<CharacterSet> ReadCode(size_t begin, size_t num_digits) {
    const auto digits = [this](size_t count) -> std::optional<char32_t> {
      char32_t code = 0;
      for (size_t i = 0; i < count; ++i, ++at_) {
        const char32_t c = Next();
        if (!IsAscii(c) || !absl::ascii_isxdigit(static_cast<char>(c))) return std::nullopt;
        code = code * 16 + (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
      }
      return code;
    };
    std::optional<char32_t> code;
    if (num_digits == 4 && Take('{')) {
      const size_t close = pattern_.find('}', at_);
      if (close != std::u32string::npos && close > at_ && close <= at_ + 6) {
        code = digits(close - at_);
      }
      if (!Take('}')) code.reset();
    } else {
      code = digits(num_digits);
      const bool is_half = code && num_digits == 4 && *code >= 0xd800 && *code < 0xdc00;
      if (is_half && pattern_.substr(at_, 2) == U"\\u") {
        at_ += 2;
        const auto low = digits(4);
        const bool is_pair = low && *low >= 0xdc00 && *low < 0xe000;
        code = is_pair ? std::optional(0x10000 + ((*code - 0xd800) << 10) + (*low - 0xdc00))
                       : std::nullopt;
      }
    }
    if (!code || *code > 0x10ffff) return Wrong("the code of a character", begin);
    return CharacterSet{{*code, *code}};
  }

  const std::u32string pattern_;
  CharacterSet without_;
  size_t at_ = 0;
  PatternPositions positions_;
};

}  // namespace

absl::StatusOr<SchemaPattern> ReadSchemaPattern(absl::string_view pattern,
                                                absl::string_view without) {
  std::u32string characters = Decoded(pattern);
  if (characters.size() > kMostPatternCharacters) {
    return absl::InvalidArgumentError(
        absl::StrCat("at most ", kMostPatternCharacters, " characters"));
  }
  return Reader(std::move(characters), without).Read();
}

}  // namespace kvship
