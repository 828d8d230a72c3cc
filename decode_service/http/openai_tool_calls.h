// OpenAiToolCalls tells the calls of tools in one choice's output from its text, and puts them into
// the form of OpenAI's API. Fed in order; not thread safe.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/tool_call_reader.h"

namespace kvship {

class OpenAiToolCalls {
 public:
  using Json = nlohmann::ordered_json;

  // The calls' ids begin with `id`. After `most` of them the model's further calls are left out.
  OpenAiToolCalls(const ToolCallReader& reader, std::string id, size_t most);

  // The text in a piece of output; Finish: what was held back, as a call might have followed.
  std::string Add(const std::string& output) { return Keep(reader_.Add(output)); }
  std::string Finish() { return Keep(reader_.Finish()); }

  // All that were found, as a message has them.
  const Json& all() const { return calls_; }
  // Those that were not taken yet, as a stream's chunk has them.
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
