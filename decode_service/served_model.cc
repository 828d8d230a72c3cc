#include "decode_service/served_model.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "engine/model_identity.h"

namespace kvship {
namespace {

size_t LongestTokenBytes(const Tokenizer& tokenizer) {
  size_t longest = 0;
  for (size_t id = 0; id < tokenizer.vocab_tokens(); ++id) {
    longest = std::max(longest, tokenizer.TokenBytes(static_cast<int32_t>(id)).size());
  }
  return longest;
}

}  // namespace

absl::StatusOr<ServedModel> ServedModel::Load(const std::string& path) {
  ServedModel model;
  ASSIGN_OR_RETURN(model.transformer, LoadTransformer(path));
  auto tokenizer = Tokenizer::Load(path);
  if (!tokenizer.ok() && !absl::IsNotFound(tokenizer.status())) return tokenizer.status();
  if (tokenizer.ok()) {
    model.tokenizer = *std::move(tokenizer);
    model.most_text_bytes = model.config().context_tokens * LongestTokenBytes(*model.tokenizer);
  }
  auto chat_template = ChatTemplate::Load(path);
  if (chat_template.ok()) {
    model.chat_template = *std::move(chat_template);
  } else {
    model.why_no_chat_template = chat_template.status();
  }
  model.identity =
      CombinedIdentity(model.transformer->identity,
                       model.tokenizer != nullptr ? model.tokenizer->identity() : Sha256Digest());
  return model;
}

}  // namespace kvship
