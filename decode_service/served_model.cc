#include "decode_service/served_model.h"

#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "engine/model_identity.h"
#include "engine/tool_call.h"

namespace kvship {
namespace {

size_t LongestTokenBytes(const Tokenizer& tokenizer) {
  size_t longest = 0;
  for (size_t id = 0; id < tokenizer.vocab_tokens(); ++id) {
    longest = std::max(longest, tokenizer.TokenBytes(static_cast<int32_t>(id)).size());
  }
  return longest;
}

// Those of `names` that are special tokens, by their ids.
void AddSpecialTokens(std::span<const absl::string_view> names, const ServedModel& model,
                      std::vector<int32_t>& tokens) {
  for (const absl::string_view name : names) {
    const auto token = model.tokenizer->SpecialToken(name);
    if (token && static_cast<size_t>(*token) < model.config().vocab_tokens) {
      tokens.push_back(*token);
    }
  }
}

void FindMarks(ServedModel& model) {
  const CallSpelling& spelling = SpellingOf(model.chat_template->traits().tool_syntax);
  AddSpecialTokens(spelling.special_tokens, model, model.call_tokens);
  AddSpecialTokens(spelling.maybe_special_tokens, model, model.call_tokens);
  const absl::string_view thought_marks[] = {kThoughtsBegin, kThoughtsEnd};
  AddSpecialTokens(thought_marks, model, model.thought_tokens);
}

// A model without the tokenizer's begin token could read no text.
absl::Status CheckBeginToken(const std::string& path, const ServedModel& model) {
  const int32_t begin = model.tokenizer->begin_token();
  if (begin < 0 || static_cast<size_t>(begin) < model.config().vocab_tokens) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(path, ": the tokenizer puts token ", begin,
                                                 " before a prompt; wanted one of the model's ",
                                                 model.config().vocab_tokens));
}

// What takes its tokenizer.
absl::Status LoadRest(const std::string& path, ServedModel& model) {
  const Tokenizer& tokenizer = *model.tokenizer;
  RETURN_IF_ERROR(CheckBeginToken(path, model));
  model.most_text_bytes = model.config().context_tokens * LongestTokenBytes(tokenizer);
  auto chat_template = ChatTemplate::Load(path, tokenizer);
  if (chat_template.ok()) {
    model.chat_template = *std::move(chat_template);
    FindMarks(model);
  } else {
    model.why_no_chat_template = chat_template.status();
    if (!absl::IsNotFound(chat_template.status())) {
      LogWarning(absl::StrCat("no chats are served: ", chat_template.status().message()));
    }
  }
  model.grammars =
      MakeOutputGrammars(tokenizer, model.config(), model.call_tokens, model.thought_tokens);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ServedModel> ServedModel::Load(const std::string& path) {
  ServedModel model;
  ASSIGN_OR_RETURN(model.transformer, LoadTransformer(path));
  ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::LoadIfPresent(path));
  if (model.tokenizer != nullptr) RETURN_IF_ERROR(LoadRest(path, model));
  model.identity =
      CombinedIdentity(model.transformer->identity,
                       model.tokenizer != nullptr ? model.tokenizer->identity() : Sha256Digest());
  return model;
}

}  // namespace kvship
