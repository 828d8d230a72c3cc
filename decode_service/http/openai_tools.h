// Tools in a request of OpenAI's chat API: the functions that a model may call, its calls in
// messages, and what came of them. What is wrong is noted in the fields read.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "decode_service/http/openai_json.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

inline constexpr size_t kMostTools = 128;  // OpenAI's bound

// The fields `tools` and `tool_choice`. Where the model shall call none, `chat` has no tools.
void ReadTools(JsonFields& fields, v1::ChatMessages* chat);

// ToolCallIds puts what came of calls, which names the id of its call, into the order of the calls,
// by which models tell them apart. One per conversation.
class ToolCallIds {
 public:
  // The calls of the last of the messages, an assistant's.
  void ReadCalls(JsonFields& message, v1::ChatMessage* added);
  // The last of the messages is what came of one.
  void ReadAnswer(JsonFields& message, v1::ChatMessages* chat);

 private:
  std::map<std::string, size_t> open_;  // calls without an answer, and which of their message's
  std::vector<size_t> answered_;        // which those of the last messages in a row were
};

}  // namespace kvship
