// Reads the tools in a request of OpenAI's chat API: the functions that a model may call, its calls
// in messages, and the results of these. Errors are recorded in the JsonFields read.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "decode_service/http/openai_json.h"
#include "kvship/v1/generation.pb.h"

namespace kvship {

// Reads `tools` and `tool_choice`. With tool_choice "none", `chat` gets no tools.
void ReadTools(JsonFields& fields, v1::ChatMessages* chat);

// ToolCallIds puts the results of calls, which refer to calls by id, into the order of the calls,
// by which models match them. One per conversation.
class ToolCallIds {
 public:
  // Reads the calls of the last message, an assistant's.
  void ReadCalls(JsonFields& message, v1::ChatMessage* added);
  // Reads the last message, the result of a call.
  void ReadAnswer(JsonFields& message, v1::ChatMessages* chat);

 private:
  std::map<std::string, size_t> open_;  // unanswered calls by id, with their index in the message
  std::vector<size_t> answered_;        // indices of the calls that the latest results answer
};

}  // namespace kvship
