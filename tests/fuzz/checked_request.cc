#include "tests/fuzz/checked_request.h"

#include "decode_service/generation_request.h"
#include "prefill_service/prefill_task.h"
#include "rpc/cache_messages.h"
#include "rpc/compression.h"
#include "rpc/sampling.h"
#include "rpc/wire_version.h"
#include "tests/fuzz/require.h"
#include "tests/fuzz/tiny_model.h"

namespace kvship {
namespace {

void CheckPrefillTakes(const GenerationRequest& request, const ServedModel& model) {
  v1::PrefillBegin begin;
  *begin.mutable_wire_version() = WireVersionProto();
  begin.set_model_identity(model.identity.data(), model.identity.size());
  begin.mutable_tokens()->Add(request.tokens.begin(), request.tokens.end());
  *begin.mutable_compression() = CompressionToProto(request.compression);
  *begin.mutable_plan() = PlanToProto(request.plan);
  *begin.mutable_sampling() = SamplingToProto(request.output.sampling);
  begin.set_logprobs(static_cast<uint32_t>(request.output.num_logprobs));
  begin.add_transports("grpc");
  const auto task = ReadBegin(begin, model.config(), model.identity);
  Require(task.ok(), "the prefill node takes what the decode node took");
  Require(task->plan == request.plan, "both nodes have the same plan");
}

}  // namespace

void CheckGenerateRequest(const v1::GenerateRequest& message) {
  const ServedModel& model = TinyServedModel();
  const auto request = ReadRequest(message, model, {.default_max_tokens = 5});
  if (!request.ok()) {
    Require(
        absl::IsInvalidArgument(request.status()) || absl::IsFailedPrecondition(request.status()),
        "a wrong request is refused for good");
    return;
  }
  Require(!request->tokens.empty(), "there is a prompt");
  Require(request->output.max_tokens >= 1, "there is an output");
  Require(request->tokens.size() + request->output.max_tokens <= model.config().context_tokens,
          "prompt and output fit the context");
  for (const int32_t token : request->tokens) {
    Require(token >= 0 && static_cast<size_t>(token) < model.config().vocab_tokens,
            "tokens are of the vocabulary");
  }
  CheckPrefillTakes(*request, model);
}

}  // namespace kvship
