// OpenAiToolCalls separates tool calls from text in one choice's output, and formats them in
// OpenAI's form. Feed the output in order; not thread safe.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/tool_call_reader.h"

namespace kvship {

class OpenAiToolCalls {
 public:
  using Json = nlohmann::ordered_json;

  // Call ids contain `id`. Calls beyond the first `most` are dropped.
  OpenAiToolCalls(const ToolCallReader& reader, std::string id, size_t most);

  // Add returns the text in a piece of output. Finish returns what was held back as the possible
  // start of a call.
  std::string Add(const std::string& output) { return Keep(reader_.Add(output)); }
  std::string Finish() { return Keep(reader_.Finish()); }

  // All calls found, in the form of a message.
  const Json& all() const { return calls_; }
  // The calls not taken yet, in the form of a stream's chunk.
  Json TakeNew();
  bool has_new() const { return num_taken_ < calls_.size(); }

 private:
  std::string Keep(ToolCallReader::Found found);

  ToolCallReader reader_;
  const std::string id_;
  const size_t most_;
  Json calls_ = Json::array();
  size_t num_taken_ = 0;
};

}  // namespace kvship
