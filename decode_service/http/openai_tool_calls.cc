#include "decode_service/http/openai_tool_calls.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace kvship {

OpenAiToolCalls::OpenAiToolCalls(const ToolCallReader& reader, std::string id, size_t most)
    : reader_(reader), id_(std::move(id)), most_(most) {}

std::string OpenAiToolCalls::Keep(ToolCallReader::Found found) {
  for (const ToolCall& call : found.calls) {
    if (calls_.size() == most_) break;
    calls_.push_back({{"id", absl::StrCat("call_", id_, "_", calls_.size())},
                      {"type", "function"},
                      {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
  }
  return std::move(found.text);
}

OpenAiToolCalls::Json OpenAiToolCalls::TakeNew() {
  Json taken = Json::array();
  for (; has_new(); ++num_taken_) {
    Json& call = taken.emplace_back(Json{{"index", num_taken_}});
    call.update(calls_[num_taken_]);
  }
  return taken;
}

}  // namespace kvship
