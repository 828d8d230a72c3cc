#include "decode_service/tokenize.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "decode_service/output_text.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

absl::Status CheckTokenizer(const ServedModel& model) {
  if (model.tokenizer != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the model of this server has no tokenizer; wanted one loaded with it");
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> TokenIds(absl::string_view field,
                                              const google::protobuf::RepeatedField<uint32_t>& ids,
                                              const ServedModel& model) {
  std::vector<int32_t> tokens;
  tokens.reserve(ids.size());
  for (uint32_t id : ids) {
    if (id >= model.config().vocab_tokens) {
      return WrongField(absl::StrCat(field, "[", tokens.size(), "]"), absl::StrCat(id),
                        absl::StrCat("an id below the vocabulary's ", model.config().vocab_tokens));
    }
    tokens.push_back(static_cast<int32_t>(id));
  }
  return tokens;
}

absl::Status CheckTextBytes(absl::string_view field, size_t num_bytes, const ServedModel& model) {
  if (num_bytes <= model.most_text_bytes) return absl::OkStatus();
  const absl::Status error = absl::FailedPreconditionError(absl::StrCat(
      field, " has ", num_bytes, " bytes; wanted at most ", model.most_text_bytes,
      ", as more cannot fit the context of ", model.config().context_tokens, " tokens"));
  return WithReason(WithField(error, field), kContextLengthExceeded);
}

absl::StatusOr<std::vector<int32_t>> TextIds(absl::string_view field, absl::string_view text,
                                             std::span<const TextRange> plain,
                                             const ServedModel& model) {
  RETURN_IF_ERROR(CheckTextBytes(field, text.size(), model));
  auto ids = model.tokenizer->Encode(text, plain);
  if (!ids.ok()) return WithField(ids.status(), field);
  return ids;
}

absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request,
                                              const ServedModel& model) {
  RETURN_IF_ERROR(CheckTokenizer(model));
  ASSIGN_OR_RETURN(
      const std::vector<int32_t> ids,
      TextIds("text", request.text(), PlainUnless(request.parse_special(), request.text()), model));
  v1::TokenizeResponse response;
  response.mutable_ids()->Add(ids.begin(), ids.end());
  return response;
}

absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request,
                                                  const ServedModel& model) {
  RETURN_IF_ERROR(CheckTokenizer(model));
  // A token's text can be a hundred bytes long: the answer is bounded, too.
  const size_t most_ids = model.config().context_tokens;
  if (static_cast<size_t>(request.ids_size()) > most_ids) {
    return WrongField("ids", absl::StrCat("a list of ", request.ids_size()),
                      absl::StrCat("at most ", most_ids, ", the tokens of the model's context"));
  }
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, TokenIds("ids", request.ids(), model));
  v1::DetokenizeResponse response;
  Utf8Stream text;
  for (int32_t id : ids) *response.mutable_text() += text.Add(model.tokenizer->TokenBytes(id));
  *response.mutable_text() += text.Finish();
  return response;
}

}  // namespace kvship
