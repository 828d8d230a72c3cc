// BpeTokenizer is a byte-pair-encoding Tokenizer, on bytes like GPT-2's or on characters like
// SentencePiece's. It is built from TokenizerParts, which the readers of GGUF metadata and of
// tokenizer.json produce. Immutable; any number of threads may use it.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "engine/added_tokens.h"
#include "engine/byte_pair_encoding.h"
#include "engine/pre_tokenizer.h"
#include "engine/token_spelling.h"
#include "engine/tokenizer.h"

namespace kvship {

enum class TokenKind : uint8_t {
  kNormal,   // text, reached by merges
  kAdded,    // found in any text by its name
  kSpecial,  // found by its name where special tokens are parsed
  kUnused,   // a hole in the numbering; never produced
};

// What gets a space before it, as in SentencePiece.
enum class SpaceBefore {
  kNothing,
  kText,        // the text, unless it begins with a space or an added token
  kEachPart,    // each part between added tokens
  kPlainParts,  // each such part that does not begin with a space
};

struct TokenizerParts {
  std::string where;                              // the file, for messages
  std::vector<std::string> tokens;                // by id
  std::vector<TokenKind> kinds;                   // by id
  absl::flat_hash_set<int32_t> found_normalized;  // added tokens looked for in normalized text
  std::vector<std::pair<std::string, std::string>> merges;  // the most preferred first
  std::vector<uint32_t> merge_ranks;  // ties join leftmost first; empty: ranked in their order
  TokenSpelling spelling = TokenSpelling::kByteLevel;
  SpaceBefore space_before = SpaceBefore::kNothing;
  bool normalizes = false;  // text to form C (normal_form.h), except names of added tokens
  std::vector<SplitPattern> patterns;
  bool ignore_merges = false;  // a piece that equals a token becomes it without merges
  int32_t unknown_token = -1;  // for bytes without a token; -1: they are dropped
  BytePairEncoding::UnknownByte unknown_byte =  // when they are dropped
      BytePairEncoding::UnknownByte::kDroppedBeforeMerges;
  int32_t begin_token = -1;  // before every prompt; -1: none
  std::vector<int32_t> end_tokens = {};
  std::string begin_name, end_name;  // for chat templates; empty: none
};

class BpeTokenizer : public Tokenizer {
 public:
  // InvalidArgument naming the invalid token or merge, or the byte whose token SentencePiece
  // requires; Unimplemented for a pattern that kvship cannot follow.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Create(TokenizerParts parts);

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              std::span<const TextRange> plain) const override;
  absl::string_view TokenBytes(int32_t id) const override;
  bool IsSpecial(int32_t id) const override;
  std::optional<int32_t> SpecialToken(absl::string_view name) const override;
  size_t vocab_tokens() const override { return kinds_.size(); }
  int32_t begin_token() const override { return begin_token_; }
  absl::string_view begin_name() const override { return begin_name_; }
  absl::string_view end_name() const override { return end_name_; }
  std::span<const int32_t> end_tokens() const override { return end_tokens_; }
  Sha256Digest identity() const override { return identity_; }

 private:
  using TokensByName = absl::flat_hash_map<std::string, int32_t>;

  BpeTokenizer(TokenizerParts parts, PreTokenizer pre_tokenizer, BytePairEncoding merges);
  // Appends the tokens of `names` found in the text; `encode` appends those of the text between.
  template <class EncodePart>
  absl::Status SplitAtNames(const AddedTokens& names, absl::string_view text,
                            std::span<const TextRange> plain, std::vector<int32_t>& ids,
                            const EncodePart& encode) const;
  absl::Status EncodeBytes(absl::string_view text, BytePairEncoding::Scratch& scratch,
                           std::vector<int32_t>& ids) const;
  void EncodeCharacters(absl::string_view text, BytePairEncoding::Scratch& scratch,
                        std::vector<int32_t>& ids) const;

  std::vector<TokenKind> kinds_;
  std::vector<std::string> token_bytes_;
  TokensByName characters_;    // by name; only for SentencePiece
  TokensByName whole_pieces_;  // by bytes; only if whole tokens skip merges
  TokensByName special_tokens_;
  AddedTokens names_;             // found in the text as it is
  AddedTokens normalized_names_;  // found in the text between, once normalized
  TokenSpelling spelling_;
  SpaceBefore space_before_;
  bool normalizes_;
  PreTokenizer pre_tokenizer_;
  BytePairEncoding merges_;
  int32_t begin_token_;
  std::vector<int32_t> end_tokens_;
  std::string begin_name_, end_name_;
  Sha256Digest identity_;
};

}  // namespace kvship
