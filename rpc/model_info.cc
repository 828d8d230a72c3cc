#include "rpc/model_info.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"
#include "rpc/errors.h"

namespace kvship {

v1::ModelInfo ModelInfoToProto(const ModelConfig& config, const Sha256Digest& combined_identity,
                               size_t context_tokens) {
  v1::ModelInfo message;
  message.set_name(config.name);
  message.set_architecture(config.architecture);
  message.set_num_layers(config.num_layers);
  message.set_num_query_heads(config.num_query_heads);
  message.set_num_kv_heads(config.num_kv_heads);
  message.set_head_dim(config.head_dim);
  message.set_vocab_tokens(config.vocab_tokens);
  message.set_context_tokens(context_tokens);
  message.set_identity(combined_identity.data(), combined_identity.size());
  return message;
}

absl::Status CheckModelIdentity(const std::string& theirs, const Sha256Digest& ours) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(theirs));
  if (std::equal(bytes.begin(), bytes.end(), ours.begin(), ours.end())) return absl::OkStatus();
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "the peer's model_identity is ",
          bytes.size() == ours.size() ? HexString(bytes)
                                      : absl::StrCat("of ", bytes.size(), " bytes"),
          "; wanted ", HexString(ours), ": prefill and decode must serve the same model file")),
      kModelMismatch);
}

}  // namespace kvship
