// Outputs walked through the structures that hold them, over a small vocabulary: all bytes, some
// longer tokens, special ones, two that end the output, and rows that stand for no token.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "decode_service/grammar/output_matcher.h"
#include "decode_service/grammar/output_structure.h"
#include "engine/model_config.h"
#include "tests/decode_service/fake_tokenizer.h"

namespace kvship {

class WalkedTokenizer final : public FakeTokenizer {
 public:
  static constexpr int32_t kEnd = 256, kOtherEnd = 257, kSpecial = 258;
  // Special ones that are shown as what they are called.
  static constexpr int32_t kCallMark = 259, kArgumentsMark = 260;
  static constexpr size_t kRows = 320;  // of the model

  // Without a token for each of the bytes `missing`.
  explicit WalkedTokenizer(absl::string_view missing = "") {
    for (int byte = 0; byte < 256; ++byte) tokens_.emplace_back(1, static_cast<char>(byte));
    for (const char byte : missing) tokens_[static_cast<uint8_t>(byte)].clear();
    // Special ones, by their names, which are text like any other inside a string.
    for (const char* name : {"<end>", "<over>", "abc", "[TOOL_CALLS]", "[ARGS]"})
      tokens_.emplace_back(name);
    const absl::string_view longer =
        R"({"|":|": |", "|"}|},|}}|]}|[]|{}|[[|","b":|a"|name|abc|true|alse|null|12|-1|.5|0.0|e1)"
        R"(|2024-|:00|\u00|\"|<tool_call>|</tool|  |   )"
        "|\n|\n    |\xc3\xa9|\xe2\x82|\x82\xac";
    for (const absl::string_view token : absl::StrSplit(longer, '|')) {
      tokens_.emplace_back(token);
    }
  }

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              std::span<const TextRange>) const override {
    std::vector<int32_t> ids;
    while (!text.empty()) {
      ids.push_back(LongestOf(text));
      text.remove_prefix(tokens_[ids.back()].size());
    }
    return ids;
  }
  absl::string_view TokenBytes(int32_t id) const override {
    return static_cast<size_t>(id) < tokens_.size() ? tokens_[id] : absl::string_view();
  }
  bool IsSpecial(int32_t id) const override { return id >= kEnd && id <= kArgumentsMark; }
  size_t vocab_tokens() const override { return tokens_.size(); }

 private:
  int32_t LongestOf(absl::string_view text) const {
    int32_t best = static_cast<uint8_t>(text[0]);
    for (size_t id = 0; id < tokens_.size(); ++id) {
      const bool begins = text.substr(0, tokens_[id].size()) == tokens_[id];
      if (!begins || IsSpecial(static_cast<int32_t>(id))) continue;
      if (tokens_[id].size() > tokens_[best].size()) best = static_cast<int32_t>(id);
    }
    return best;
  }

  std::vector<std::string> tokens_;
};

// A tool as a request has it; `strict` is JSON.
inline std::string ToolJson(absl::string_view name, absl::string_view parameters,
                            absl::string_view strict = "true") {
  return absl::StrCat(R"({"type": "function", "function": {"name": ")", name,
                      R"(", "parameters": )", parameters, R"(, "strict": )", strict, "}}");
}

inline ModelConfig WalkedModel() {
  ModelConfig model;
  model.vocab_tokens = WalkedTokenizer::kRows;
  model.end_tokens = {WalkedTokenizer::kEnd, WalkedTokenizer::kOtherEnd};
  return model;
}

inline const WalkedTokenizer& TheWalkedTokenizer() {
  static const WalkedTokenizer tokenizer;
  return tokenizer;
}

inline OutputGrammars& TheGrammars() {
  static const ModelConfig model = WalkedModel();
  static const int32_t shown[] = {WalkedTokenizer::kCallMark, WalkedTokenizer::kArgumentsMark};
  static const std::unique_ptr<OutputGrammars> grammars =
      MakeOutputGrammars(TheWalkedTokenizer(), model, shown);
  return *grammars;
}

// Goes on by these tokens: what is wrong, or "". One is allowed where it is accepted.
inline std::string WalkTokens(std::span<const int32_t> tokens, OutputMatcher& matcher) {
  std::string walked;
  for (const int32_t token : tokens) {
    const auto mask = matcher.Allowed();
    if (!mask.ok()) return mask.status().ToString();
    const bool allowed = Allows(*mask, token);
    const absl::Status accepted = matcher.Accept(token);
    if (allowed != accepted.ok()) return absl::StrCat("the mask is wrong behind ", walked);
    const absl::string_view bytes = TheWalkedTokenizer().TokenBytes(token);
    if (!allowed) return absl::StrCat("not ", absl::CHexEscape(bytes), " behind ", walked);
    absl::StrAppend(&walked, absl::CHexEscape(bytes));
  }
  return "";
}

// Whether an output of this structure may be `text` and end there: why not, or "".
inline std::string WalkWhole(const std::string& structure, absl::string_view text,
                             OutputGrammars& grammars = TheGrammars()) {
  const std::vector<int32_t> longest = *TheWalkedTokenizer().Encode(text, {});
  std::vector<int32_t> bytes;
  for (const char byte : text) bytes.push_back(static_cast<uint8_t>(byte));
  std::vector<std::string> whys;
  for (const std::vector<int32_t>& tokens : {bytes, longest}) {
    const auto matcher = grammars.Match(structure);
    if (!matcher.ok()) return matcher.status().ToString();
    whys.push_back(WalkTokens(tokens, **matcher));
    if (!whys.back().empty()) continue;
    const int32_t end = tokens.size() % 2 == 0 ? WalkedTokenizer::kEnd : WalkedTokenizer::kOtherEnd;
    whys.back() = WalkTokens(std::span(&end, 1), **matcher);
  }
  if (whys[0].empty() != whys[1].empty()) {
    return absl::StrCat("bytes and longer tokens differ: '", whys[0], "' and '", whys[1], "'");
  }
  return whys[0];
}

// Of a request that holds its output to this schema alone.
inline absl::StatusOr<std::string> StructureOf(absl::string_view schema) {
  v1::GenerateRequest request;
  request.set_json_schema(std::string(schema));
  return OutputStructure(request, ToolSyntax::kNone);
}

// Whether `text` is an output of this schema: why not, or "".
inline std::string WalkSchema(absl::string_view schema, absl::string_view text) {
  const auto structure = StructureOf(schema);
  return structure.ok() ? WalkWhole(*structure, text) : structure.status().ToString();
}

}  // namespace kvship
