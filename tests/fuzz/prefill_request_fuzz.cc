// A message of a client to a prefill node. An empty model_identity stands for the right one.
#include "kvship/v1/prefill.pb.h"
#include "prefill_service/prefill_task.h"
#include "tests/fuzz/tiny_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  using namespace kvship;
  v1::PrefillRequest message;
  if (!message.ParseFromArray(data, static_cast<int>(num_bytes)) || !message.has_begin()) return 0;
  const ServedModel& model = TinyServedModel();
  v1::PrefillBegin& begin = *message.mutable_begin();
  if (begin.model_identity().empty()) {
    begin.set_model_identity(model.identity.data(), model.identity.size());
  }
  const auto task = ReadBegin(begin, model.config(), model.identity);
  if (!task.ok()) {
    Require(absl::IsInvalidArgument(task.status()) || absl::IsFailedPrecondition(task.status()),
            "a wrong request is refused for good");
    return 0;
  }
  Require(!task->tokens.empty() && task->tokens.size() < model.config().context_tokens,
          "the prompt fits the context");
  for (const int32_t token : task->tokens) {
    Require(token >= 0 && static_cast<size_t>(token) < model.config().vocab_tokens,
            "tokens are of the vocabulary");
  }
  for (const size_t tokens : task->plan.layer_tokens) {
    Require(tokens <= task->tokens.size() * task->plan.num_heads,
            "a layer keeps no more than the prompt");
  }
  return 0;
}
