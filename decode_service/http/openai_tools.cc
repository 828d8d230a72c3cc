#include "decode_service/http/openai_tools.h"

#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "decode_service/grammar/output_structure.h"
#include "engine/json_text.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

using json = nlohmann::ordered_json;

constexpr size_t kMostNameBytes = 64;  // OpenAI's limit

bool IsFunctionName(absl::string_view name) {
  for (const char c : name) {
    if (!absl::ascii_isalnum(c) && c != '_' && c != '-') return false;
  }
  return !name.empty() && name.size() <= kMostNameBytes;
}

// Reads {"type": "function", "function": {"name": ...}}. Calls `read` with the function and its
// name, to read its other fields.
template <typename ReadFunction>
void ReadFunctionOf(JsonFields& object, const ReadFunction& read) {
  object.Require("type");
  object.Only("type", "function");
  object.Require("function");
  const json* value = object.Value("function");
  if (value == nullptr) return;
  JsonFields function(*value, object.PathOf("function."));
  function.Require("name");
  const std::string name = function.Text("name").value_or("");
  function.Check(IsFunctionName(name), "name", "1 to 64 letters, digits, _ and -");
  read(function, name);
  object.Note(function.Finish());
}

// Returns the tool's name.
std::string CheckTool(JsonFields& fields, const json& value, const std::string& path) {
  JsonFields tool(value, path);
  std::string name;
  ReadFunctionOf(tool, [&name](JsonFields& function, const std::string& its_name) {
    name = its_name;
    function.Text("description");
    function.Bool("strict");
    const json* parameters = function.Value("parameters");
    function.Check(parameters == nullptr || parameters->is_object(), "parameters",
                   "a JSON schema, which is an object");
  });
  fields.Note(tool.Finish());
  return name;
}

// Returns the names of all tools.
std::set<std::string> ReadToolList(JsonFields& fields, v1::ChatMessages* chat) {
  std::set<std::string> names;
  const json* tools = fields.Value("tools");
  if (tools == nullptr) return names;
  const bool is_list = tools->is_array() && tools->size() <= kMostTools;
  fields.Check(is_list, "tools", absl::StrCat("a list of at most ", kMostTools, " tools"));
  if (!is_list) return names;
  for (size_t i = 0; i < tools->size(); ++i) {
    names.insert(CheckTool(fields, (*tools)[i], absl::StrCat("tools[", i, "].")));
    chat->add_tools((*tools)[i].dump());
  }
  return names;
}

}  // namespace

void ReadTools(JsonFields& fields, v1::ChatMessages* chat) {
  const std::set<std::string> names = ReadToolList(fields, chat);
  const json* choice = fields.Value("tool_choice");
  if (choice == nullptr || *choice == "auto") return;
  if (*choice == "none") return chat->clear_tools();
  fields.Check(!names.empty(), "tool_choice", "\"auto\" or \"none\" where there are no tools");
  if (*choice == "required") return chat->set_forced_call("");
  fields.Check(choice->is_object(), "tool_choice",
               "\"auto\", \"none\", \"required\", or an object that names a tool");
  if (!choice->is_object()) return;
  JsonFields named(*choice, "tool_choice.");
  ReadFunctionOf(named, [&names, chat](JsonFields& function, const std::string& name) {
    function.Check(names.contains(name), "name", "that of one of the tools");
    chat->set_forced_call(name);
  });
  fields.Note(named.Finish());
}

void ToolCallIds::ReadCalls(JsonFields& message, v1::ChatMessage* added) {
  const json* calls = message.Value("tool_calls");
  if (calls == nullptr) return;
  const bool is_list = calls->is_array() && calls->size() <= kMostTools;
  message.Check(is_list, "tool_calls", absl::StrCat("a list of at most ", kMostTools, " calls"));
  if (!is_list || calls->empty()) return;
  open_.clear();
  for (size_t i = 0; i < calls->size(); ++i) {
    JsonFields call((*calls)[i], absl::StrCat(message.PathOf("tool_calls"), "[", i, "]."));
    call.Require("id");
    const bool is_new = open_.emplace(call.Text("id").value_or(""), i).second;
    call.Check(is_new, "id", "an id that no other call of the message has");
    ReadFunctionOf(call, [added](JsonFields& function, const std::string& name) {
      function.Require("arguments");
      const std::string text = function.Text("arguments").value_or("");
      const auto arguments = PythonJson(text.empty() ? "{}" : text);  // of tools without any
      function.Check(arguments.ok(), "arguments", "a string with a JSON object in it");
      v1::ToolCall& read = *added->add_tool_calls();
      read.set_name(name);
      if (arguments.ok()) read.set_arguments(*arguments);
      function.Value("parsed_arguments");  // the same, parsed by OpenAI's client
    });
    call.Value("index");  // of the deltas that OpenAI's client put together
    message.Note(call.Finish());
  }
}

void ToolCallIds::ReadAnswer(JsonFields& message, v1::ChatMessages* chat) {
  const auto call = open_.find(message.Text("tool_call_id").value_or(""));
  message.Check(call != open_.end(), "tool_call_id",
                "the id of a call in the assistant's last message, which no other message answers");
  if (call == open_.end()) return;
  const int last = chat->messages_size() - 1;
  if (last == 0 || chat->messages(last - 1).role() != "tool") answered_.clear();
  answered_.push_back(call->second);
  open_.erase(call);
  int place = last;
  for (size_t i = answered_.size() - 1; i > 0 && answered_[i - 1] > answered_[i]; --i, --place) {
    std::swap(answered_[i - 1], answered_[i]);
    chat->mutable_messages()->SwapElements(place - 1, place);
  }
}

}  // namespace kvship
