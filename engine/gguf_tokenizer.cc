#include "engine/gguf_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf8.h"

namespace kvship {
namespace {

// A GGUF file names its pre-tokenizer only; the patterns are those of the models' own
// tokenizer.json, and of llama-vocab.cpp of ggml-org/llama.cpp for "default".
constexpr char kLlama3Pattern[] =
    R"('[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2Pattern[] =
    R"('[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kTekkenPattern[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

absl::Status Bad(const GgufFile& file, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", what));
}

absl::Status ReadPreTokenizer(const GgufFile& file, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const auto stated, file.Text("tokenizer.ggml.pre"));
  const absl::string_view name = stated.value_or("default");
  if (name == "smollm") {
    parts.patterns = {{R"(\p{N})"}, {kGpt2Pattern}};
  } else if (name == "gpt-2") {
    parts.patterns = {{kGpt2Pattern}};
  } else if (name == "default") {
    parts.patterns = {
        {R"([\p{P}\$\+<=>\^~\|]+)"}, {kGpt2Pattern}, {R"(\p{N}+)"}, {"[0-9][0-9][0-9]"}};
  } else if (name == "llama-bpe" || name == "llama3" || name == "llama-v3") {
    parts.patterns = {{kLlama3Pattern}};
    parts.ignore_merges = true;
  } else if (name == "qwen2" || name == "deepseek-r1-qwen") {
    parts.patterns = {{kQwen2Pattern}};
    parts.normalizes = true;
  } else if (name == "tekken") {
    parts.patterns = {{kTekkenPattern}};
    parts.ignore_merges = true;
  } else {
    return absl::UnimplementedError(
        absl::StrCat(file.path(), ": metadata tokenizer.ggml.pre is ", name,
                     "; wanted one of smollm, gpt-2, default, llama-bpe, llama3, qwen2, "
                     "deepseek-r1-qwen, tekken"));
  }
  return absl::OkStatus();
}

// Whether a token of this name ends a turn or an output. From the names that llama-vocab.cpp of
// ggml-org/llama.cpp knows such tokens by.
bool EndsTurns(absl::string_view name) {
  constexpr absl::string_view kNames[] = {"<|eot_id|>",      "<|eom_id|>",
                                          "<|end_of_text|>", "<|im_end|>",
                                          "<|endoftext|>",   "<|end|>",
                                          "<end_of_turn>",   "</s>",
                                          "<EOT>",           "<｜end▁of▁sentence｜>"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

// The kinds as GGUF numbers them; a file without them has normal tokens only.
absl::Status ReadStatedKinds(const GgufFile& file, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const auto types, file.Integers("tokenizer.ggml.token_type"));
  parts.kinds.assign(parts.tokens.size(), TokenKind::kNormal);
  if (!types.has_value()) return absl::OkStatus();
  if (types->size() != parts.tokens.size()) {
    return Bad(file,
               absl::StrCat("metadata tokenizer.ggml.token_type has ", types->size(),
                            " items; wanted one for each of the ", parts.tokens.size(), " tokens"));
  }
  for (size_t id = 0; id < types->size(); ++id) {
    switch ((*types)[id]) {
      case 1: parts.kinds[id] = TokenKind::kNormal; break;
      case 2:  // unknown
      case 3: parts.kinds[id] = TokenKind::kSpecial; break;
      case 4: parts.kinds[id] = TokenKind::kAdded; break;
      case 5: parts.kinds[id] = TokenKind::kUnused; break;
      case 6: parts.kinds[id] = TokenKind::kNormal; break;  // a byte, which its name says
      default:
        return Bad(file, absl::StrCat("metadata tokenizer.ggml.token_type[", id, "] is ",
                                      (*types)[id], "; wanted 1 to 6"));
    }
  }
  return absl::OkStatus();
}

// Older converters wrote tokens that end turns as normal or added ones. As llama.cpp does, these
// are special whatever the file says: else whoever writes their names could end a message.
absl::Status ReadKinds(const GgufFile& file, TokenizerParts& parts) {
  RETURN_IF_ERROR(ReadStatedKinds(file, parts));
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    TokenKind& kind = parts.kinds[id];
    if (kind != TokenKind::kUnused && EndsTurns(parts.tokens[id])) kind = TokenKind::kSpecial;
  }
  return absl::OkStatus();
}

absl::Status ReadMerges(const GgufFile& file, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const auto merges, file.Texts("tokenizer.ggml.merges"));
  if (!merges.has_value()) return Bad(file, "metadata tokenizer.ggml.merges is missing");
  parts.merges.reserve(merges->size());
  for (size_t i = 0; i < merges->size(); ++i) {
    const absl::string_view merge = (*merges)[i];
    const size_t space = merge.find(' ', 1);
    if (space == absl::string_view::npos || space + 1 == merge.size()) {
      return Bad(file, absl::StrCat("metadata tokenizer.ggml.merges[", i, "] is \"", merge,
                                    "\"; wanted two names with a space between"));
    }
    parts.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  return absl::OkStatus();
}

struct ScoredMerge {
  float score;
  absl::string_view left, right;
};

// All that make the token `name` of two others.
void AddMerges(absl::string_view name, float score,
               const absl::flat_hash_set<absl::string_view>& names,
               std::vector<ScoredMerge>& merges) {
  // SentencePiece's own tokens have up to 16 characters; time grows as the square of the length.
  constexpr size_t kMostNameBytes = 256;
  if (name.empty() || name.size() > kMostNameBytes) return;
  for (size_t at = FirstCharacter(name).num_bytes; at < name.size();) {
    const absl::string_view left = name.substr(0, at), right = name.substr(at);
    if (names.contains(left) && names.contains(right)) merges.push_back({score, left, right});
    at += FirstCharacter(right).num_bytes;
  }
}

// SentencePiece has scores instead of merges: of all neighbours that make a token those of the
// highest score join first.
absl::Status ReadScores(const GgufFile& file, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const auto scores, file.Floats("tokenizer.ggml.scores"));
  if (!scores.has_value() || scores->size() != parts.tokens.size()) {
    return Bad(file,
               absl::StrCat("metadata tokenizer.ggml.scores is not one number for each of the ",
                            parts.tokens.size(), " tokens"));
  }
  absl::flat_hash_set<absl::string_view> names;
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    if (parts.kinds[id] == TokenKind::kNormal) names.insert(parts.tokens[id]);
    if (!std::isfinite((*scores)[id])) {
      return Bad(file, absl::StrCat("metadata tokenizer.ggml.scores[", id, "] is ", (*scores)[id],
                                    "; wanted a finite number"));
    }
  }
  std::vector<ScoredMerge> merges;
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    if (parts.kinds[id] == TokenKind::kNormal) {
      AddMerges(parts.tokens[id], (*scores)[id], names, merges);
    }
  }
  std::stable_sort(merges.begin(), merges.end(),
                   [](const ScoredMerge& a, const ScoredMerge& b) { return a.score > b.score; });
  for (size_t i = 0; i < merges.size(); ++i) {
    parts.merges.emplace_back(merges[i].left, merges[i].right);
    const bool ties = i > 0 && merges[i].score == merges[i - 1].score;
    parts.merge_ranks.push_back(ties ? parts.merge_ranks.back() : static_cast<uint32_t>(i));
  }
  return absl::OkStatus();
}

// A file names one or two end tokens; that of a model tuned to chats may be the base model's alone.
// As llama.cpp does, special tokens end outputs by their names.
void FindEndTokens(TokenizerParts& parts) {
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    if (parts.kinds[id] == TokenKind::kSpecial && EndsTurns(parts.tokens[id])) {
      parts.end_tokens.push_back(static_cast<int32_t>(id));
    }
  }
}

// The token whose id a metadata key holds; -1 if the key is absent.
absl::StatusOr<int32_t> TokenOf(const GgufFile& file, absl::string_view key,
                                const TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const std::optional<uint64_t> id, file.Count(key));
  if (!id.has_value()) return -1;
  if (*id < parts.tokens.size()) return static_cast<int32_t>(*id);
  return Bad(file, absl::StrCat("metadata ", key, " is ", *id, "; wanted less than ",
                                parts.tokens.size()));
}

}  // namespace

absl::StatusOr<TokenizerParts> ReadGgufTokenizer(const GgufFile& file) {
  ASSIGN_OR_RETURN(const absl::string_view model, file.RequiredText("tokenizer.ggml.model"));
  if (model != "gpt2" && model != "llama") {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": metadata tokenizer.ggml.model is ",
                                                 model, "; wanted gpt2 or llama"));
  }
  TokenizerParts parts;
  parts.where = file.path();
  parts.unknown_byte = BytePairEncoding::UnknownByte::kDroppedAfterMerges;  // as llama.cpp does
  const bool sentence_piece = model == "llama";
  if (sentence_piece) {
    parts.spelling = TokenSpelling::kSentencePiece;
    ASSIGN_OR_RETURN(const auto space, file.Flag("tokenizer.ggml.add_space_prefix"));
    if (space.value_or(true)) parts.space_before = SpaceBefore::kEachPart;
  } else {
    RETURN_IF_ERROR(ReadPreTokenizer(file, parts));
  }
  ASSIGN_OR_RETURN(const auto tokens, file.Texts("tokenizer.ggml.tokens"));
  if (!tokens.has_value()) return Bad(file, "metadata tokenizer.ggml.tokens is missing");
  parts.tokens.reserve(tokens->size());
  for (const absl::string_view token : *tokens) parts.tokens.emplace_back(token);
  RETURN_IF_ERROR(ReadKinds(file, parts));
  FindEndTokens(parts);
  RETURN_IF_ERROR(sentence_piece ? ReadScores(file, parts) : ReadMerges(file, parts));
  ASSIGN_OR_RETURN(const auto stated, file.Flag("tokenizer.ggml.add_bos_token"));
  ASSIGN_OR_RETURN(const int32_t begin, TokenOf(file, "tokenizer.ggml.bos_token_id", parts));
  ASSIGN_OR_RETURN(const int32_t end, TokenOf(file, "tokenizer.ggml.eos_token_id", parts));
  if (begin >= 0) parts.begin_name = parts.tokens[begin];
  if (end >= 0) parts.end_name = parts.tokens[end];
  // Llama 3 and SentencePiece add it unless the file says otherwise.
  if (stated.value_or(parts.ignore_merges || sentence_piece)) parts.begin_token = begin;
  ASSIGN_OR_RETURN(const auto adds_end, file.Flag("tokenizer.ggml.add_eos_token"));
  if (adds_end.value_or(false)) {
    return absl::UnimplementedError(
        absl::StrCat(file.path(), ": metadata tokenizer.ggml.add_eos_token is true; wanted false"));
  }
  return parts;
}

}  // namespace kvship
