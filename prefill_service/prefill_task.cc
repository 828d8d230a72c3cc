#include "prefill_service/prefill_task.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "engine/prefill.h"
#include "rpc/cache_messages.h"
#include "rpc/compression.h"
#include "rpc/errors.h"
#include "rpc/model_info.h"
#include "rpc/request_id.h"
#include "rpc/sampling.h"
#include "rpc/wire_version.h"

namespace kvship {
namespace {

absl::Status CheckTokens(const v1::PrefillBegin& begin, const ModelConfig& model) {
  const auto& tokens = begin.tokens();
  if (tokens.empty()) return WrongField("tokens", "empty", "at least 1 token");
  if (static_cast<size_t>(tokens.size()) >= model.context_tokens) {
    return WrongField("tokens", absl::StrCat("a list of ", tokens.size()),
                      absl::StrCat("fewer than the model's context of ", model.context_tokens));
  }
  const std::string wanted = absl::StrCat("an id below the vocabulary's ", model.vocab_tokens);
  for (int i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < model.vocab_tokens) continue;
    return WrongField(absl::StrCat("tokens[", i, "]"), absl::StrCat(tokens[i]), wanted);
  }
  if (begin.has_forced_token() && begin.forced_token() >= model.vocab_tokens) {
    return WrongField("forced_token", absl::StrCat(begin.forced_token()), wanted);
  }
  return absl::OkStatus();
}

absl::StatusOr<TokenMask> AllowedTokens(const v1::PrefillBegin& begin, size_t vocab_tokens) {
  TokenMask mask(begin.allowed_tokens().begin(), begin.allowed_tokens().end());
  if (mask.empty()) return mask;
  const size_t words = TokenMaskWords(vocab_tokens);
  if (mask.size() != words) {
    return WrongField("allowed_tokens", absl::StrCat("a list of ", mask.size()),
                      absl::StrCat("the ", words, " words of the vocabulary, or none"));
  }
  for (size_t token = 0; token < vocab_tokens; ++token) {
    if (Allows(mask, token)) return mask;
  }
  return WrongField("allowed_tokens", "all 0", "at least one token of the vocabulary");
}

absl::Status CheckTransports(const v1::PrefillBegin& begin) {
  const auto& offered = begin.transports();
  if (std::find(offered.begin(), offered.end(), kGrpcTransport) != offered.end()) {
    return absl::OkStatus();
  }
  // A hostile list may be long.
  constexpr int kMostNamed = 4;
  return WrongField(
      "transports",
      absl::StrCat("[",
                   absl::StrJoin(offered.begin(),
                                 offered.begin() + std::min(kMostNamed, offered.size()), ", "),
                   "]"),
      absl::StrCat("a list with '", kGrpcTransport, "'"));
}

}  // namespace

absl::StatusOr<PrefillTask> ReadBegin(const v1::PrefillBegin& begin, const ModelConfig& model,
                                      const Sha256Digest& identity) {
  RETURN_IF_ERROR(CheckWireVersion(begin.wire_version()));
  RETURN_IF_ERROR(CheckModelIdentity(begin.model_identity(), identity));
  RETURN_IF_ERROR(CheckMostBytes("request_id", begin.request_id(), kMostRequestIdBytes));
  RETURN_IF_ERROR(CheckTokens(begin, model));
  RETURN_IF_ERROR(CheckMostBytes("cache_salt", begin.cache_salt(), kMostCacheSaltBytes));
  RETURN_IF_ERROR(CheckTransports(begin));
  RETURN_IF_ERROR(CheckLogprobs(begin.logprobs()));
  PrefillTask task;
  task.request_id = begin.request_id();
  // An option unknown to a client of an older minor version gets the struct's default, which is the
  // behaviour before the option existed.
  ASSIGN_OR_RETURN(task.compression, CompressionFromProto(begin.compression(), {}));
  ASSIGN_OR_RETURN(task.sampling, SamplingFromProto(begin.sampling(), model.vocab_tokens));
  absl::StatusOr<KvPlan> plan = MakePlan(task.compression, ShapeOf(model), begin.tokens_size());
  if (!plan.ok()) return WithCompressionField(plan.status());
  RETURN_IF_ERROR(CheckPlan(begin.plan(), *plan));
  task.plan = *std::move(plan);
  task.tokens.assign(begin.tokens().begin(), begin.tokens().end());
  task.cache_salt = begin.cache_salt();
  task.num_logprobs = begin.logprobs();
  ASSIGN_OR_RETURN(task.allowed_tokens, AllowedTokens(begin, model.vocab_tokens));
  if (begin.has_forced_token()) task.forced_token = static_cast<int32_t>(begin.forced_token());
  return task;
}

}  // namespace kvship
