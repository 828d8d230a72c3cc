// What a model writes, which may be calls of tools: two bytes for how it calls, which of the marks
// are special tokens and where its output is cut, then the output.
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_replace.h"
#include "base/random.h"
#include "engine/json_text.h"
#include "engine/tool_call_reader.h"
#include "tests/fuzz/require.h"

namespace kvship {
namespace {

void Add(ToolCallReader::Found found, ToolCallReader::Found& all) {
  all.text += found.text;
  for (ToolCall& call : found.calls) all.calls.push_back(std::move(call));
}

const std::vector<std::string> kTools = {
    R"({"function": {"name": "f", "parameters": {"properties": {"a": {"type": "array"},
        "b": {"type": ["null", "boolean", "string"]}, "c": {"type": "number"}}}}})"};

std::string Without(std::span<const std::string> names, absl::string_view output) {
  std::vector<std::pair<absl::string_view, absl::string_view>> replacements;
  for (const std::string& name : names) replacements.emplace_back(name, "");
  return absl::StrReplaceAll(output, replacements);
}

// In pieces of up to `most_bytes`.
ToolCallReader::Found Read(ToolCallReader reader, absl::string_view output, size_t most_bytes) {
  ToolCallReader::Found all;
  for (uint64_t i = 0; !output.empty(); ++i) {
    const absl::string_view piece = output.substr(0, 1 + RandomBits(1, i) % most_bytes);
    Add(reader.Add(piece), all);
    output.remove_prefix(piece.size());
  }
  Add(reader.Finish(), all);
  return all;
}

}  // namespace
}  // namespace kvship

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  using namespace kvship;
  if (num_bytes < 2) return 0;
  const ToolSyntax syntax = kToolSyntaxes[data[0] / 2 % std::size(kToolSyntaxes)];
  const CallSpelling& spelling = SpellingOf(syntax);
  std::vector<std::string> special;
  for (const absl::string_view name : spelling.special_tokens) special.emplace_back(name);
  for (const absl::string_view name : spelling.maybe_special_tokens) {
    if (data[1] >= 128) special.emplace_back(name);
  }
  const ToolCallReader reader(syntax, /*thinks=*/data[0] % 2 != 0, kTools, special);
  const absl::string_view output(reinterpret_cast<const char*>(data + 2), num_bytes - 2);
  const ToolCallReader::Found whole = Read(reader, output, SIZE_MAX);
  const ToolCallReader::Found cut = Read(reader, output, 1 + data[1] % 16);
  Require(whole.text == cut.text && whole.calls.size() == cut.calls.size(), "cuts change nothing");
  Require(!whole.calls.empty() || whole.text == Without(special, output),
          "what is no call stays text");
  for (size_t i = 0; i < whole.calls.size(); ++i) {
    const ToolCall& call = whole.calls[i];
    Require(call.name == cut.calls[i].name && call.arguments == cut.calls[i].arguments,
            "cuts change no call");
    Require(nlohmann::json::parse(call.arguments).is_object(), "arguments are an object");
    if (const auto spelled = PythonJson(call.arguments); spelled.ok()) {
      Require(nlohmann::json::parse(*spelled) == nlohmann::json::parse(call.arguments),
              "another spelling says the same");
    }
  }
  return 0;
}
