#include "engine/hf_tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "engine/json_file.h"

namespace kvship {
namespace {

using nlohmann::json;

// Ids are places in a table: far above any vocabulary there is, and a table of some 100 MB at most.
constexpr uint64_t kMaxTokens = uint64_t{1} << 21;

// The items of a list of objects, each named by its place.
absl::StatusOr<std::vector<JsonObject>> Items(const JsonObject& object, absl::string_view field) {
  std::vector<JsonObject> items;
  const json* list = object.Find(field);
  if (list == nullptr) return items;
  if (!list->is_array()) return object.Bad(field, "is not a list");
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string where = absl::StrCat(object.where(), ": ", field, "[", i, "]");
    if (!(*list)[i].is_object()) return object.Bad(field, absl::StrCat("[", i, "] is no object"));
    items.emplace_back(where, (*list)[i]);
  }
  return items;
}

// The steps of a part that is null, one step, or a Sequence of steps in the field `list`.
absl::StatusOr<std::vector<JsonObject>> Steps(const JsonObject& root, absl::string_view part,
                                              absl::string_view list) {
  ASSIGN_OR_RETURN(const std::optional<JsonObject> step, root.Object(part));
  if (!step.has_value()) return std::vector<JsonObject>();
  ASSIGN_OR_RETURN(const std::string type, step->RequiredText("type"));
  if (type != "Sequence") return std::vector<JsonObject>{*step};
  return Items(*step, list);
}

absl::Status PutToken(const JsonObject& where, uint64_t id, const std::string& text, TokenKind kind,
                      TokenizerParts& parts) {
  if (id >= kMaxTokens) {
    return where.Bad(text, absl::StrCat("has id ", id, "; wanted less than ", kMaxTokens));
  }
  if (id >= parts.tokens.size()) {
    parts.tokens.resize(id + 1);
    parts.kinds.resize(id + 1, TokenKind::kUnused);
  }
  if (parts.kinds[id] != TokenKind::kUnused && parts.tokens[id] != text) {
    return where.Bad(text, absl::StrCat("has id ", id, ", which is that of ", parts.tokens[id]));
  }
  parts.tokens[id] = text;
  parts.kinds[id] = kind;
  return absl::OkStatus();
}

absl::Status ReadVocabulary(const JsonObject& model, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const std::optional<JsonObject> vocab, model.Object("vocab"));
  if (!vocab.has_value()) return model.Bad("vocab", "is missing; wanted an object");
  parts.tokens.reserve(std::min<size_t>(vocab->fields().size(), kMaxTokens));
  for (const auto& [text, id] : vocab->fields().items()) {
    if (!id.is_number_unsigned()) {
      const std::string value = id.is_number() ? id.dump() : absl::StrCat("a ", id.type_name());
      return vocab->Bad(text, absl::StrCat("has id ", value, "; wanted an integer of 0 or more"));
    }
    RETURN_IF_ERROR(PutToken(*vocab, id.get<uint64_t>(), text, TokenKind::kNormal, parts));
  }
  return absl::OkStatus();
}

// A merge is a pair of names or, in older files, the two with a space between.
absl::Status ReadMerges(const JsonObject& model, TokenizerParts& parts) {
  const json* merges = model.Find("merges");
  if (merges == nullptr || !merges->is_array()) return model.Bad("merges", "is not a list");
  parts.merges.reserve(merges->size());
  for (const json& merge : *merges) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      parts.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    const std::string text = merge.is_string() ? merge.get<std::string>() : std::string();
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return model.Bad("merges", absl::StrCat("[", parts.merges.size(), "] is not two names"));
    }
    parts.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const JsonObject& root, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const std::optional<JsonObject> model, root.Object("model"));
  if (!model.has_value()) return root.Bad("model", "is missing; wanted an object");
  ASSIGN_OR_RETURN(const std::optional<std::string> type, model->Text("type"));
  if (type.value_or("BPE") != "BPE") {
    return model->Unimplemented("type", absl::StrCat("is ", *type, "; wanted BPE"));
  }
  ASSIGN_OR_RETURN(const std::optional<double> dropout, model->Number("dropout"));
  if (dropout.value_or(0) != 0) return model->Unimplemented("dropout", "is not 0");
  for (const char* field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::optional<std::string> affix, model->Text(field));
    if (!affix.value_or("").empty()) return model->Unimplemented(field, "is not empty");
  }
  ASSIGN_OR_RETURN(const std::optional<bool> byte_fallback, model->Flag("byte_fallback"));
  if (byte_fallback.value_or(false)) parts.spelling = TokenSpelling::kSentencePiece;
  ASSIGN_OR_RETURN(const std::optional<bool> fuse, model->Flag("fuse_unk"));
  if (fuse.value_or(false) && !byte_fallback.value_or(false)) {
    return model->Unimplemented("fuse_unk", "is true; wanted false where byte_fallback is false");
  }
  ASSIGN_OR_RETURN(const std::optional<bool> ignore_merges, model->Flag("ignore_merges"));
  parts.ignore_merges = ignore_merges.value_or(false);
  if (parts.ignore_merges && byte_fallback.value_or(false)) {
    return model->Unimplemented("ignore_merges",
                                "is true; wanted false where byte_fallback is true");
  }
  RETURN_IF_ERROR(ReadVocabulary(*model, parts));
  return ReadMerges(*model, parts);
}

absl::Status ReadAddedTokens(const JsonObject& root, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const std::vector<JsonObject> tokens, Items(root, "added_tokens"));
  // huggingface/tokenizers numbers what the vocabulary lacks by itself, whatever the file says.
  uint64_t next_id =
      parts.kinds.size() -
      static_cast<size_t>(std::count(parts.kinds.begin(), parts.kinds.end(), TokenKind::kUnused));
  for (const JsonObject& token : tokens) {
    ASSIGN_OR_RETURN(const std::string name, token.RequiredText("content"));
    ASSIGN_OR_RETURN(const uint64_t id, token.RequiredCount("id"));
    const bool is_known = id < parts.tokens.size() && parts.kinds[id] != TokenKind::kUnused;
    if (!is_known && id != next_id++) {
      return token.Bad("id", absl::StrCat("is ", id, "; wanted ", next_id - 1,
                                          ", the number of tokens before it"));
    }
    for (const char* field : {"single_word", "lstrip", "rstrip"}) {
      ASSIGN_OR_RETURN(const std::optional<bool> flag, token.Flag(field));
      if (flag.value_or(false)) return token.Unimplemented(field, "is true; wanted false");
    }
    ASSIGN_OR_RETURN(const std::optional<bool> normalized, token.Flag("normalized"));
    if (normalized.value_or(false)) {
      // It would be looked for with the spaces that the normalizer writes and adds.
      if (parts.spelling == TokenSpelling::kSentencePiece && root.Find("normalizer") != nullptr) {
        return token.Unimplemented("normalized", "is true; wanted false beside a normalizer");
      }
      parts.found_normalized.insert(static_cast<int32_t>(id));
    }
    ASSIGN_OR_RETURN(const std::optional<bool> special, token.Flag("special"));
    const TokenKind kind = special.value_or(false) ? TokenKind::kSpecial : TokenKind::kAdded;
    RETURN_IF_ERROR(PutToken(token, id, name, kind, parts));
  }
  return absl::OkStatus();
}

absl::StatusOr<SplitPattern> ReadSplit(const JsonObject& step) {
  ASSIGN_OR_RETURN(const std::string behavior, step.RequiredText("behavior"));
  if (behavior != "Isolated") {
    return step.Unimplemented("behavior", absl::StrCat("is ", behavior, "; wanted Isolated"));
  }
  ASSIGN_OR_RETURN(const std::optional<JsonObject> pattern, step.Object("pattern"));
  if (!pattern.has_value()) return step.Bad("pattern", "is missing; wanted an object");
  ASSIGN_OR_RETURN(const std::optional<std::string> regex, pattern->Text("Regex"));
  if (regex.has_value()) return SplitPattern{*regex, /*is_regex=*/true};
  ASSIGN_OR_RETURN(const std::string text, pattern->RequiredText("String"));
  return SplitPattern{text, /*is_regex=*/false};
}

// The last step has to be ByteLevel: it writes bytes as characters, which the vocabulary is made
// of.
absl::Status ReadPreTokenizer(const JsonObject& root, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const std::vector<JsonObject> steps,
                   Steps(root, "pre_tokenizer", "pretokenizers"));
  std::string last;
  for (const JsonObject& step : steps) {
    ASSIGN_OR_RETURN(const std::string type, step.RequiredText("type"));
    if (last == "ByteLevel") {
      return step.Unimplemented("type", absl::StrCat("is ", type, ", after ByteLevel"));
    }
    last = type;
    if (type == "Split") {
      ASSIGN_OR_RETURN(SplitPattern pattern, ReadSplit(step));
      parts.patterns.push_back(std::move(pattern));
    } else if (type == "Digits") {
      ASSIGN_OR_RETURN(const std::optional<bool> individual, step.Flag("individual_digits"));
      parts.patterns.push_back({individual.value_or(false) ? R"(\p{N})" : R"(\p{N}+)"});
    } else if (type == "ByteLevel") {
      ASSIGN_OR_RETURN(const std::optional<bool> prefix, step.Flag("add_prefix_space"));
      if (prefix.value_or(true)) {
        return step.Unimplemented("add_prefix_space", "is true; wanted false");
      }
      ASSIGN_OR_RETURN(const std::optional<bool> splits, step.Flag("use_regex"));
      if (splits.value_or(true)) parts.patterns.push_back({kGpt2Pattern});
    } else {
      return step.Unimplemented("type",
                                absl::StrCat("is ", type, "; wanted Split, Digits or ByteLevel"));
    }
  }
  if (last == "ByteLevel") return absl::OkStatus();
  return root.Unimplemented("pre_tokenizer", "does not end with ByteLevel");
}

absl::StatusOr<int32_t> IdOf(absl::string_view name, const JsonObject& where,
                             absl::string_view field, const TokenizerParts& parts) {
  const auto found = std::find(parts.tokens.begin(), parts.tokens.end(), name);
  if (found == parts.tokens.end()) {
    return where.Bad(field, absl::StrCat("is ", name, ", which is not in the vocabulary"));
  }
  return static_cast<int32_t>(found - parts.tokens.begin());
}

// What is put around the text: a begin token before it, or nothing.
absl::Status ReadPostProcessor(const JsonObject& root, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const std::vector<JsonObject> steps,
                   Steps(root, "post_processor", "processors"));
  for (const JsonObject& step : steps) {
    ASSIGN_OR_RETURN(const std::string type, step.RequiredText("type"));
    if (type == "ByteLevel") continue;
    if (type != "TemplateProcessing") {
      return step.Unimplemented(
          "type", absl::StrCat("is ", type, "; wanted ByteLevel or TemplateProcessing"));
    }
    ASSIGN_OR_RETURN(const std::vector<JsonObject> items, Items(step, "single"));
    if (items.empty() || items.size() > 2 || items.back().Find("Sequence") == nullptr ||
        (items.size() == 2 && items.front().Find("SpecialToken") == nullptr)) {
      return step.Unimplemented("single", "is not the text with at most one token before it");
    }
    if (items.size() == 1) continue;
    ASSIGN_OR_RETURN(const std::optional<JsonObject> begin, items.front().Object("SpecialToken"));
    ASSIGN_OR_RETURN(const std::string name, begin->RequiredText("id"));
    ASSIGN_OR_RETURN(parts.begin_token, IdOf(name, *begin, "id", parts));
  }
  return absl::OkStatus();
}

absl::Status ReadNormalizer(const JsonObject& root, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const std::vector<JsonObject> steps, Steps(root, "normalizer", "normalizers"));
  for (const JsonObject& step : steps) {
    ASSIGN_OR_RETURN(const std::string type, step.RequiredText("type"));
    if (type != "NFC") {
      return step.Unimplemented("type", absl::StrCat("is ", type, "; wanted NFC, or none"));
    }
    parts.normalizes = true;
  }
  return absl::OkStatus();
}

absl::Status ReadMetaspace(const JsonObject& step, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const std::optional<bool> cuts, step.Flag("split"));
  if (cuts.value_or(true)) return step.Unimplemented("split", "is true; wanted false");
  ASSIGN_OR_RETURN(const std::string scheme, step.RequiredText("prepend_scheme"));
  if (scheme != "first" && scheme != "always" && scheme != "never") {
    return step.Unimplemented("prepend_scheme",
                              absl::StrCat("is ", scheme, "; wanted first, always or never"));
  }
  // Behind a Prepend all parts begin with a space.
  if (parts.space_before == SpaceBefore::kEachPart) return absl::OkStatus();
  if (scheme == "first") parts.space_before = SpaceBefore::kText;
  if (scheme == "always") parts.space_before = SpaceBefore::kPlainParts;
  return absl::OkStatus();
}

// Where a SentencePiece tokenizer writes spaces, and which it adds: older files say so as steps of
// the normalizer, newer ones as a pre-tokenizer.
absl::Status ReadSpaces(const JsonObject& root, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(std::vector<JsonObject> steps, Steps(root, "normalizer", "normalizers"));
  ASSIGN_OR_RETURN(const std::vector<JsonObject> splits,
                   Steps(root, "pre_tokenizer", "pretokenizers"));
  steps.insert(steps.end(), splits.begin(), splits.end());
  bool replaces = false;
  for (const JsonObject& step : steps) {
    ASSIGN_OR_RETURN(const std::string type, step.RequiredText("type"));
    const char* const field = type == "Prepend"   ? "prepend"
                              : type == "Replace" ? "content"
                                                  : "replacement";
    if (type != "Prepend" && type != "Replace" && type != "Metaspace") {
      return step.Unimplemented(
          "type", absl::StrCat("is ", type, "; wanted Prepend, Replace or Metaspace"));
    }
    ASSIGN_OR_RETURN(const std::string mark, step.RequiredText(field));
    if (mark != kSpaceMark) {
      return step.Unimplemented(field, absl::StrCat("is ", mark, "; wanted ", kSpaceMark));
    }
    if (type == "Prepend") {
      parts.space_before = SpaceBefore::kEachPart;
      continue;
    }
    replaces = true;
    if (type == "Replace") {
      ASSIGN_OR_RETURN(const std::optional<JsonObject> pattern, step.Object("pattern"));
      if (!pattern.has_value()) return step.Bad("pattern", "is missing; wanted an object");
      ASSIGN_OR_RETURN(const std::string replaced, pattern->RequiredText("String"));
      if (replaced != " ")
        return pattern->Unimplemented("String", "is something else; wanted a space");
      continue;
    }
    RETURN_IF_ERROR(ReadMetaspace(step, parts));
  }
  if (replaces) return absl::OkStatus();
  return root.Unimplemented("normalizer",
                            absl::StrCat("replaces no spaces; wanted ", kSpaceMark, " for them"));
}

// Of no account to who turns tokens into bytes one by one, but what another does is another model.
absl::Status RefuseOtherDecoders(const JsonObject& root, TokenSpelling spelling) {
  ASSIGN_OR_RETURN(const std::vector<JsonObject> steps, Steps(root, "decoder", "decoders"));
  const std::vector<std::string> known =
      spelling == TokenSpelling::kByteLevel
          ? std::vector<std::string>{"ByteLevel"}
          : std::vector<std::string>{"Replace", "ByteFallback", "Fuse", "Strip"};
  for (const JsonObject& step : steps) {
    ASSIGN_OR_RETURN(const std::string type, step.RequiredText("type"));
    if (std::find(known.begin(), known.end(), type) != known.end()) continue;
    return step.Unimplemented("type",
                              absl::StrCat("is ", type, "; wanted ", absl::StrJoin(known, ", ")));
  }
  return absl::OkStatus();
}

// The model names its unknown token; its id is known once all tokens are.
absl::Status ReadUnknownToken(const JsonObject& root, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const std::optional<JsonObject> model, root.Object("model"));
  ASSIGN_OR_RETURN(const std::optional<std::string> name, model->Text("unk_token"));
  if (!name.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(parts.unknown_token, IdOf(*name, *model, "unk_token", parts));
  return absl::OkStatus();
}

// bos_token and the like: a name, or an object with the name as its content. Empty where there is
// none.
absl::StatusOr<std::string> TokenName(const JsonObject& config, absl::string_view field) {
  const json* value = config.Find(field);
  if (value == nullptr) return std::string();
  if (value->is_string()) return value->get<std::string>();
  ASSIGN_OR_RETURN(const std::optional<JsonObject> token, config.Object(field));
  return token->RequiredText("content");
}

// By the tokenizer's own word; the model's configuration may have another end token, or none.
absl::Status ReadBeginAndEnd(const std::string& path, TokenizerParts& parts) {
  const auto config = ReadJsonFile(path);
  if (absl::IsNotFound(config.status())) return absl::OkStatus();
  RETURN_IF_ERROR(config.status());
  const JsonObject root(*config);
  ASSIGN_OR_RETURN(parts.begin_name, TokenName(root, "bos_token"));
  ASSIGN_OR_RETURN(parts.end_name, TokenName(root, "eos_token"));
  const auto found = std::find(parts.tokens.begin(), parts.tokens.end(), parts.end_name);
  if (parts.end_name.empty() || found == parts.tokens.end()) return absl::OkStatus();
  parts.end_tokens = {static_cast<int32_t>(found - parts.tokens.begin())};
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerParts> ReadHfTokenizer(const std::string& path) {
  ASSIGN_OR_RETURN(const JsonFile file, ReadJsonFile(path));
  const JsonObject root(file);
  TokenizerParts parts;
  parts.where = path;
  RETURN_IF_ERROR(ReadModel(root, parts));
  RETURN_IF_ERROR(RefuseOtherDecoders(root, parts.spelling));
  if (parts.spelling == TokenSpelling::kSentencePiece) {
    RETURN_IF_ERROR(ReadSpaces(root, parts));
  } else {
    RETURN_IF_ERROR(ReadNormalizer(root, parts));
    RETURN_IF_ERROR(ReadPreTokenizer(root, parts));
  }
  RETURN_IF_ERROR(ReadAddedTokens(root, parts));
  RETURN_IF_ERROR(ReadUnknownToken(root, parts));
  RETURN_IF_ERROR(ReadPostProcessor(root, parts));
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  RETURN_IF_ERROR(ReadBeginAndEnd(directory / "tokenizer_config.json", parts));
  return parts;
}

}  // namespace kvship
