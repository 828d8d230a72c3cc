#include "rpc/sampling.h"

#include "absl/strings/str_cat.h"
#include "rpc/errors.h"

namespace kvship {

absl::StatusOr<SamplingOptions> SamplingFromProto(const v1::SamplingOptions& message,
                                                  size_t vocab_tokens) {
  SamplingOptions options;
  if (message.has_temperature()) options.temperature = message.temperature();
  if (message.has_top_p()) options.top_p = message.top_p();
  if (message.has_top_k()) options.top_k = message.top_k();
  if (message.has_min_p()) options.min_p = message.min_p();
  if (message.has_seed()) options.seed = message.seed();
  if (message.has_presence_penalty()) options.presence_penalty = message.presence_penalty();
  if (message.has_frequency_penalty()) options.frequency_penalty = message.frequency_penalty();
  if (message.has_repetition_penalty()) options.repetition_penalty = message.repetition_penalty();
  for (const auto& [token, bias] : message.logit_bias()) {
    if (token >= vocab_tokens) {
      return WrongField("sampling.logit_bias", absl::StrCat("for the token ", token),
                        absl::StrCat("ids below the vocabulary's ", vocab_tokens));
    }
    options.logit_bias.push_back({static_cast<int32_t>(token), bias});
  }
  if (absl::Status status = options.Validate(); !status.ok()) {
    return WithField(std::move(status), "sampling");
  }
  return options;
}

v1::SamplingOptions SamplingToProto(const SamplingOptions& options) {
  v1::SamplingOptions message;
  message.set_temperature(options.temperature);
  message.set_top_p(options.top_p);
  message.set_top_k(static_cast<uint32_t>(options.top_k));
  message.set_min_p(options.min_p);
  message.set_seed(options.seed);
  message.set_presence_penalty(options.presence_penalty);
  message.set_frequency_penalty(options.frequency_penalty);
  message.set_repetition_penalty(options.repetition_penalty);
  for (const auto& [token, bias] : options.logit_bias) {
    (*message.mutable_logit_bias())[static_cast<uint32_t>(token)] = bias;
  }
  return message;
}

OutputToken OutputTokenFromProto(const v1::OutputToken& message) {
  OutputToken token;
  token.token = static_cast<int32_t>(message.token_id());
  token.logprob = message.logprob();
  for (const v1::TokenLogprob& top : message.top()) {
    token.top.push_back({static_cast<int32_t>(top.token_id()), top.logprob()});
  }
  return token;
}

v1::OutputToken OutputTokenToProto(const OutputToken& token) {
  v1::OutputToken message;
  message.set_token_id(token.token);
  message.set_logprob(token.logprob);
  for (const TokenLogprob& top : token.top) {
    v1::TokenLogprob* added = message.add_top();
    added->set_token_id(top.token);
    added->set_logprob(top.logprob);
  }
  return message;
}

absl::Status CheckLogprobs(uint32_t logprobs) {
  if (logprobs <= kMostLogprobs) return absl::OkStatus();
  return WrongField("logprobs", absl::StrCat(logprobs), absl::StrCat("at most ", kMostLogprobs));
}

}  // namespace kvship
