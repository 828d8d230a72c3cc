#include "decode_service/output_structure.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "decode_service/json_schema.h"
#include "engine/json_text.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

// A part of the output, in the words of structural tags.
using Part = std::string;

std::string AsJson(absl::string_view text) {
  using nlohmann::json;
  return json(std::string(text)).dump(-1, ' ', false, json::error_handler_t::replace);
}

Part Text(absl::string_view text) {
  return absl::StrCat(R"({"type": "const_string", "value": )", AsJson(text), "}");
}

// White space between two tokens of JSON: a line end and some levels of indentation. Without a
// bound a model that has lost its way writes no more than that.
constexpr int kMostSpaces = 16;

Part JsonOf(absl::string_view schema) {
  return absl::StrCat(R"({"type": "json_schema", "max_whitespace_cnt": )", kMostSpaces,
                      R"(, "json_schema": )", schema, "}");
}

Part Several(absl::string_view type, const std::vector<Part>& parts) {
  return absl::StrCat(R"({"type": ")", type, R"(", "elements": [)", absl::StrJoin(parts, ", "),
                      "]}");
}
Part InTurn(const std::vector<Part>& parts) { return Several("sequence", parts); }
Part OneOf(const std::vector<Part>& parts) { return Several("or", parts); }

constexpr int kMostTools = 128;

// How calls are written. What comes before a name and behind it is as the chat template has it.
struct CallSpelling {
  absl::string_view mark;  // by which a call among text is known; empty: it stands among none
  absl::string_view before_name;
  absl::string_view before_arguments;  // behind the name, which is in quotes
  absl::string_view after;
  absl::string_view between;  // calls
};

constexpr CallSpelling kHermesCalls = {.mark = "<tool_call>",
                                       .before_name = "<tool_call>\n{\"name\": ",
                                       .before_arguments = ", \"arguments\": ",
                                       .after = "}\n</tool_call>",
                                       .between = "\n"};
constexpr CallSpelling kLlama3Calls = {.mark = "",
                                       .before_name = "{\"name\": ",
                                       .before_arguments = ", \"parameters\": ",
                                       .after = "}",
                                       .between = "; "};

constexpr char kTextThatIsNoJson[] = R"({"type": "optional", "content": {"type": "sequence",
    "elements": [{"type": "regex", "pattern": "[^{\\s]"}, {"type": "any_text"}]}})";

struct Tool {
  std::string name;       // in quotes, as prompts have it
  std::string arguments;  // their schema
  bool is_strict = false;
};

absl::StatusOr<Tool> ReadTool(const std::string& json, SchemaQuotas& quotas) {
  const absl::string_view function = JsonMember(json, "function").value_or("{}");
  const absl::string_view name = JsonMember(function, "name").value_or("\"\"");
  Tool tool = {.name = nlohmann::json::parse(name.begin(), name.end()).dump(),
               .arguments = kAnyJsonObject,
               .is_strict = JsonMember(function, "strict") == "true"};
  const auto parameters = JsonMember(function, "parameters");
  if (!tool.is_strict || !parameters || *parameters == "null") return tool;
  ASSIGN_OR_RETURN(tool.arguments, CheckedJsonSchema(*parameters, quotas));
  return tool;
}

absl::StatusOr<std::vector<Tool>> ReadTools(const v1::ChatMessages& chat) {
  if (chat.tools_size() > kMostTools) {
    return WrongField(
        "chat.tools", absl::StrCat("a list of ", chat.tools_size()),
        absl::StrCat("at most ", kMostTools, " tools where one is strict or a call is forced"));
  }
  std::vector<Tool> tools;
  SchemaQuotas quotas;  // which they share
  for (int i = 0; i < chat.tools_size(); ++i) {
    absl::StatusOr<Tool> tool = ReadTool(chat.tools(i), quotas);
    if (!tool.ok()) {
      const std::string path = absl::StrCat("chat.tools[", i, "].function.parameters");
      return WithField(absl::InvalidArgumentError(absl::StrCat(path, tool.status().message())),
                       path);
    }
    tools.push_back(*std::move(tool));
  }
  return tools;
}

class Calls {
 public:
  Calls(const CallSpelling& spelling, std::vector<Tool> tools)
      : spelling_(spelling), tools_(std::move(tools)) {}

  bool Has(const std::string& name) const {
    return std::any_of(tools_.begin(), tools_.end(),
                       [&name](const Tool& tool) { return tool.name == AsJson(name); });
  }
  bool has_strict() const {
    return std::any_of(tools_.begin(), tools_.end(), [](const Tool& t) { return t.is_strict; });
  }

  // As many as the model likes: between whatever text, or alone, where text would be taken for one
  // that begins as a JSON object does.
  Part Free() const {
    if (spelling_.mark.empty()) return OneOf({Alone(), kTextThatIsNoJson});
    return absl::StrCat(R"({"type": "triggered_tags", "triggers": [)", AsJson(spelling_.mark),
                        R"(], "tags": )", Tags(), "}");
  }

  // One or more, and nothing else.
  Part Alone() const {
    return absl::StrCat(R"({"type": "tags_with_separator", "at_least_one": true, "separator": )",
                        AsJson(spelling_.between), R"(, "tags": )", Tags(), "}");
  }

  // The prompt ends with the beginning of one of this tool, up to its arguments, or, without a
  // name, of one up to the name and its first quote; then more may follow.
  Part Begun(const std::string& name) const {
    std::vector<Part> rests;
    for (const Tool& tool : tools_) {
      const std::vector<Part> arguments = {JsonOf(tool.arguments), Text(spelling_.after)};
      if (!name.empty()) {
        if (tool.name == AsJson(name)) return InTurn({Text(" "), arguments[0], arguments[1]});
        continue;
      }
      const std::string begin = absl::StrCat(tool.name.substr(1), spelling_.before_arguments);
      rests.push_back(InTurn({Text(begin), arguments[0], arguments[1]}));
    }
    const Part more = InTurn({Text(spelling_.between), Alone()});
    return InTurn({OneOf(rests), absl::StrCat(R"({"type": "optional", "content": )", more, "}")});
  }

 private:
  std::string Tags() const {
    std::vector<Part> tags;
    for (const Tool& tool : tools_) {
      const std::string begin =
          absl::StrCat(spelling_.before_name, tool.name, spelling_.before_arguments);
      tags.push_back(absl::StrCat(R"({"type": "tag", "begin": )", AsJson(begin), R"(, "content": )",
                                  JsonOf(tool.arguments), R"(, "end": )", AsJson(spelling_.after),
                                  "}"));
    }
    return absl::StrCat("[", absl::StrJoin(tags, ", "), "]");
  }

  const CallSpelling& spelling_;
  const std::vector<Tool> tools_;
};

std::string Structure(const Part& whole) {
  return absl::StrCat(R"({"type": "structural_tag", "format": )", whole, "}");
}

}  // namespace

absl::StatusOr<std::string> OutputStructure(const v1::GenerateRequest& request, ToolSyntax syntax) {
  const v1::ChatMessages& chat = request.chat();
  Part json;
  if (!request.json_schema().empty()) {
    const auto schema = CheckedJsonSchema(request.json_schema());
    if (!schema.ok()) {
      return WithField(
          absl::InvalidArgumentError(absl::StrCat("json_schema", schema.status().message())),
          "json_schema");
    }
    json = JsonOf(*schema);
  }
  if (chat.tools().empty() || syntax == ToolSyntax::kNone) {
    return json.empty() ? json : Structure(json);
  }
  if (syntax == ToolSyntax::kLlama3 && !json.empty()) {
    return WrongField("json_schema", "set", "it left out beside tools, whose calls are JSON, too");
  }
  ASSIGN_OR_RETURN(std::vector<Tool> tools, ReadTools(chat));
  const Calls calls(syntax == ToolSyntax::kLlama3 ? kLlama3Calls : kHermesCalls, std::move(tools));
  if (chat.has_forced_call()) {
    const std::string& name = chat.forced_call();
    if (!name.empty() && !calls.Has(name)) {
      return WrongField("chat.forced_call", AsJson(name), "the name of one of chat.tools");
    }
    return Structure(calls.Begun(name));
  }
  if (!json.empty()) return Structure(OneOf({json, calls.Alone()}));
  return calls.has_strict() ? Structure(calls.Free()) : "";
}

}  // namespace kvship
