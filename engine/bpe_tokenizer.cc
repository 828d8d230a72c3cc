#include "engine/bpe_tokenizer.h"

#include <algorithm>
#include <array>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "engine/normal_form.h"

namespace kvship {
namespace {

// Views of the names of normal tokens; the parts must outlive them.
using TokensByText = absl::flat_hash_map<absl::string_view, int32_t>;

absl::StatusOr<TokensByText> IndexTokens(const TokenizerParts& parts) {
  TokensByText by_text;
  by_text.reserve(parts.tokens.size());
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    if (parts.kinds[id] == TokenKind::kUnused) continue;
    if (parts.tokens[id].empty() && parts.kinds[id] != TokenKind::kNormal) {
      return absl::InvalidArgumentError(
          absl::StrCat(parts.where, ": added token ", id, " has an empty name"));
    }
    const auto [earlier, is_new] = by_text.emplace(parts.tokens[id], static_cast<int32_t>(id));
    if (!is_new) {
      return absl::InvalidArgumentError(absl::StrCat(parts.where, ": tokens ", earlier->second,
                                                     " and ", id, " have the same name, \"",
                                                     parts.tokens[id], "\""));
    }
  }
  return by_text;
}

absl::StatusOr<std::vector<BytePairEncoding::Merge>> ResolveMerges(const TokenizerParts& parts,
                                                                   const TokensByText& by_text) {
  std::vector<BytePairEncoding::Merge> merges;
  merges.reserve(parts.merges.size());
  absl::flat_hash_set<std::pair<int32_t, int32_t>> seen;
  seen.reserve(parts.merges.size());
  std::string joined_name;
  for (const auto& [left_name, right_name] : parts.merges) {
    joined_name.assign(left_name).append(right_name);
    const auto left = by_text.find(left_name);
    const auto right = by_text.find(right_name);
    const auto joined = by_text.find(joined_name);
    if (left == by_text.end() || right == by_text.end() || joined == by_text.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(parts.where, ": merge ", seen.size(), ", \"", left_name, " ", right_name,
                       "\", names or makes a token that the vocabulary does not have"));
    }
    if (!seen.emplace(left->second, right->second).second) {
      return absl::InvalidArgumentError(absl::StrCat(parts.where, ": merge ", seen.size(), ", \"",
                                                     left_name, " ", right_name,
                                                     "\", is there twice"));
    }
    // Text must not become a special token by its letters: whoever writes it could end a message.
    if (parts.kinds[joined->second] == TokenKind::kSpecial) continue;
    const auto place = static_cast<uint32_t>(seen.size() - 1);
    merges.push_back({left->second, right->second, joined->second,
                      parts.merge_ranks.empty() ? place : parts.merge_ranks[place]});
  }
  return merges;
}

absl::StatusOr<std::array<int32_t, 256>> ResolveBytes(const TokenizerParts& parts,
                                                      const TokensByText& by_text) {
  std::array<int32_t, 256> byte_tokens;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string name = ByteTokenName(parts.spelling, static_cast<unsigned char>(byte));
    const auto found = by_text.find(name);
    byte_tokens[byte] = found == by_text.end() ? parts.unknown_token : found->second;
    if (found == by_text.end() && parts.spelling == TokenSpelling::kSentencePiece) {
      return absl::InvalidArgumentError(absl::StrCat(parts.where, ": token ", name, " is missing"));
    }
  }
  return byte_tokens;
}

bool IsOneCharacter(absl::string_view text) {
  return !text.empty() && FirstCharacter(text).num_bytes == text.size();
}

// Text makes no special tokens, so none of its spaces could be one.
absl::Status RefuseSpecialSpace(const TokenizerParts& parts, const TokensByText& by_text) {
  const auto space = by_text.find(kSpaceMark);
  if (parts.spelling != TokenSpelling::kSentencePiece || space == by_text.end() ||
      parts.kinds[space->second] != TokenKind::kSpecial) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(
      absl::StrCat(parts.where, ": token ", space->second, ", \"", kSpaceMark,
                   "\", which stands for a space, is special; wanted a token of text"));
}

bool NeedsSpace(SpaceBefore space_before, absl::string_view part, bool begins_text) {
  const bool has_space = part.front() == ' ' || absl::StartsWith(part, kSpaceMark);
  switch (space_before) {
    case SpaceBefore::kNothing: return false;
    case SpaceBefore::kText: return begins_text && !has_space;
    case SpaceBefore::kEachPart: return true;
    case SpaceBefore::kPlainParts: break;
  }
  return !has_space;
}

// Over lengths and contents, so that no two different parts give the same bytes.
Sha256Digest IdentityOf(const TokenizerParts& parts) {
  std::string text =
      absl::StrCat("kvship tokenizer 1\n", parts.ignore_merges, " ", parts.unknown_token, " ",
                   static_cast<int>(parts.unknown_byte), " ", parts.begin_token >= 0, "\n");
  const auto add = [&text](absl::string_view item) {
    absl::StrAppend(&text, item.size(), ":", item, "\n");
  };
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    absl::StrAppend(&text, static_cast<int>(parts.kinds[id]), " ");
    add(parts.tokens[id]);
  }
  absl::StrAppend(&text, "merges ", parts.merges.size(), "\n");
  for (const auto& [left, right] : parts.merges) {
    add(left);
    add(right);
  }
  for (const uint32_t rank : parts.merge_ranks) absl::StrAppend(&text, "rank ", rank, "\n");
  absl::StrAppend(&text, "patterns ", parts.patterns.size(), "\n");
  for (const SplitPattern& pattern : parts.patterns) {
    absl::StrAppend(&text, pattern.is_regex, " ");
    add(pattern.pattern);
  }
  if (parts.normalizes) absl::StrAppend(&text, "NFC\n");
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    if (parts.found_normalized.contains(static_cast<int32_t>(id))) {
      absl::StrAppend(&text, "normalized ", id, "\n");
    }
  }
  if (parts.spelling == TokenSpelling::kSentencePiece) {
    absl::StrAppend(&text, "SentencePiece ", static_cast<int>(parts.space_before), "\n");
  }
  Sha256 sha;
  sha.Update(std::as_bytes(std::span(text)));
  return sha.Finish();
}

// The first of the ranges that has bytes of `range`; null if there is none.
const TextRange* FirstTouching(std::span<const TextRange> ranges, TextRange range) {
  const auto found = std::partition_point(
      ranges.begin(), ranges.end(), [&range](const TextRange& r) { return r.end <= range.begin; });
  return found != ranges.end() && found->begin < range.end ? &*found : nullptr;
}

// What the ranges have of `part`, counted from where it begins.
std::vector<TextRange> Within(std::span<const TextRange> ranges, TextRange part) {
  std::vector<TextRange> within;
  const TextRange* range = FirstTouching(ranges, part);
  if (range == nullptr) return within;
  for (; range != ranges.data() + ranges.size() && range->begin < part.end; ++range) {
    within.push_back({std::max(range->begin, part.begin) - part.begin,
                      std::min(range->end, part.end) - part.begin});
  }
  return within;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Tokenizer>> BpeTokenizer::Create(TokenizerParts parts) {
  if (parts.tokens.size() > INT32_MAX || parts.kinds.size() != parts.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat(parts.where, ": ", parts.tokens.size(),
                                                   " tokens with ", parts.kinds.size(),
                                                   " kinds; wanted as many, and less than 2^31"));
  }
  ASSIGN_OR_RETURN(const TokensByText by_text, IndexTokens(parts));
  RETURN_IF_ERROR(RefuseSpecialSpace(parts, by_text));
  ASSIGN_OR_RETURN(const std::vector<BytePairEncoding::Merge> merges,
                   ResolveMerges(parts, by_text));
  ASSIGN_OR_RETURN(const auto byte_tokens, ResolveBytes(parts, by_text));
  BytePairEncoding encoding(byte_tokens, merges, parts.unknown_byte);
  auto pre_tokenizer = PreTokenizer::Create(parts.patterns);
  if (!pre_tokenizer.ok()) {
    return absl::Status(pre_tokenizer.status().code(),
                        absl::StrCat(parts.where, ": ", pre_tokenizer.status().message()));
  }
  return std::unique_ptr<const Tokenizer>(
      new BpeTokenizer(std::move(parts), *std::move(pre_tokenizer), std::move(encoding)));
}

BpeTokenizer::BpeTokenizer(TokenizerParts parts, PreTokenizer pre_tokenizer,
                           BytePairEncoding merges)
    : spelling_(parts.spelling),
      space_before_(parts.space_before),
      normalizes_(parts.normalizes),
      pre_tokenizer_(std::move(pre_tokenizer)),
      merges_(std::move(merges)),
      begin_token_(parts.begin_token),
      end_tokens_(parts.end_tokens),
      begin_name_(parts.begin_name),
      end_name_(parts.end_name),
      identity_(IdentityOf(parts)) {
  token_bytes_ = std::move(parts.tokens);
  kinds_ = std::move(parts.kinds);
  for (size_t i = 0; i < kinds_.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    std::string& text = token_bytes_[i];
    const bool is_text = kinds_[i] == TokenKind::kNormal || kinds_[i] == TokenKind::kAdded;
    const bool is_character =
        spelling_ == TokenSpelling::kSentencePiece && is_text && IsOneCharacter(text);
    if (is_character) characters_.emplace(text, id);
    switch (kinds_[i]) {
      case TokenKind::kNormal:
        text = BytesOfToken(spelling_, text);
        if (parts.ignore_merges) whole_pieces_.emplace(text, id);
        break;
      case TokenKind::kSpecial: special_tokens_.emplace(text, id); [[fallthrough]];
      case TokenKind::kAdded:
        if (!parts.found_normalized.contains(id)) {
          names_.Add(text, id);
        } else {
          normalized_names_.Add(normalizes_ ? NormalFormC(text) : text, id);
        }
        if (is_character) text = BytesOfToken(spelling_, text);
        break;
      case TokenKind::kUnused: break;
    }
  }
}

void BpeTokenizer::EncodeCharacters(absl::string_view text, BytePairEncoding::Scratch& scratch,
                                    std::vector<int32_t>& ids) const {
  if (text.empty()) return;
  std::vector<int32_t> symbols;
  const auto add = [&](absl::string_view character) {
    const auto found = characters_.find(character);
    if (found != characters_.end()) return symbols.push_back(found->second);
    for (const char byte : character) symbols.push_back(merges_.byte_token(byte));
  };
  if (NeedsSpace(space_before_, text, /*begins_text=*/ids.empty())) add(kSpaceMark);
  while (!text.empty()) {
    const size_t num_bytes = FirstCharacter(text).num_bytes;
    add(text.front() == ' ' ? kSpaceMark : text.substr(0, num_bytes));
    text.remove_prefix(num_bytes);
  }
  merges_.Join(symbols, scratch, ids);
}

absl::Status BpeTokenizer::EncodeBytes(absl::string_view text, BytePairEncoding::Scratch& scratch,
                                       std::vector<int32_t>& ids) const {
  std::vector<absl::string_view> pieces;
  RETURN_IF_ERROR(pre_tokenizer_.Split(text, pieces));
  for (const absl::string_view piece : pieces) {
    if (!whole_pieces_.empty()) {
      if (const auto whole = whole_pieces_.find(piece); whole != whole_pieces_.end()) {
        ids.push_back(whole->second);
        continue;
      }
    }
    merges_.Encode(piece, scratch, ids);
  }
  return absl::OkStatus();
}

template <class EncodePart>
absl::Status BpeTokenizer::SplitAtNames(const AddedTokens& names, absl::string_view text,
                                        std::span<const TextRange> plain, std::vector<int32_t>& ids,
                                        const EncodePart& encode) const {
  size_t done = 0;
  for (size_t from = 0;;) {
    const AddedTokens::Match match = names.Find(text, from);
    if (match.token < 0) return encode(text.substr(done));
    from = match.begin + match.num_bytes;
    if (IsSpecial(match.token)) {
      if (const TextRange* range = FirstTouching(plain, {match.begin, from}); range != nullptr) {
        // Text like any other. What follows the range may begin in the name.
        from = std::max(match.begin + 1, std::min(from, range->end));
        continue;
      }
    }
    RETURN_IF_ERROR(encode(text.substr(done, match.begin - done)));
    ids.push_back(match.token);
    done = from;
  }
}

absl::StatusOr<std::vector<int32_t>> BpeTokenizer::Encode(absl::string_view text,
                                                          std::span<const TextRange> plain) const {
  if (const size_t valid_bytes = ValidUtf8Bytes(text); valid_bytes != text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("text is not valid UTF-8 at byte ", valid_bytes, " of ", text.size()));
  }
  BytePairEncoding::Scratch scratch;
  std::vector<int32_t> ids;
  const auto encode = [&](absl::string_view part) -> absl::Status {
    if (spelling_ == TokenSpelling::kByteLevel) return EncodeBytes(part, scratch, ids);
    EncodeCharacters(part, scratch, ids);
    return absl::OkStatus();
  };
  const auto normalize = [&](absl::string_view part) {
    const auto offset = static_cast<size_t>(part.data() - text.data());
    std::vector<TextRange> plain_in_part = Within(plain, {offset, offset + part.size()});
    const std::string normal = normalizes_ ? NormalFormC(part) : std::string();
    if (normalizes_ && normal != part && !plain_in_part.empty()) {
      plain_in_part = {{0, normal.size()}};  // nobody knows what became of which byte
    }
    return SplitAtNames(normalized_names_, normalizes_ ? normal : part, plain_in_part, ids, encode);
  };
  RETURN_IF_ERROR(SplitAtNames(names_, text, plain, ids, normalize));
  return ids;
}

absl::string_view BpeTokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= token_bytes_.size()) return {};
  return token_bytes_[id];
}

bool BpeTokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < kinds_.size() && kinds_[id] == TokenKind::kSpecial;
}

std::optional<int32_t> BpeTokenizer::SpecialToken(absl::string_view name) const {
  const auto found = special_tokens_.find(name);
  if (found == special_tokens_.end()) return std::nullopt;
  return found->second;
}

}  // namespace kvship
