#include "decode_service/grammar/output_structure.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "decode_service/grammar/json_schema.h"
#include "decode_service/grammar/structural_tag.h"
#include "decode_service/grammar/xml_arguments.h"
#include "engine/json_text.h"
#include "rpc/errors.h"

namespace kvship {
namespace {

constexpr char kTextThatIsNoJson[] = R"({"type": "optional", "content": {"type": "sequence",
    "elements": [{"type": "regex", "pattern": "[^{\\s]"}, {"type": "any_text"}]}})";

struct Tool {
  std::string name;          // as prompts spell it
  StructuralPart arguments;  // with their delimiters in this syntax
  bool is_strict = false;
};

std::string SpelledName(absl::string_view name, ToolSyntax syntax) {
  if (!absl::EndsWith(SpellingOf(syntax).before_name, "\"")) return std::string(name);
  const std::string literal = JsonString(name);
  return literal.substr(1, literal.size() - 2);
}

absl::StatusOr<Tool> ReadTool(const std::string& json, ToolSyntax syntax, SchemaQuotas& quotas) {
  const bool is_xml = syntax == ToolSyntax::kQwenXml;
  const absl::string_view function = JsonMember(json, "function").value_or("{}");
  const absl::string_view literal = JsonMember(function, "name").value_or("\"\"");
  const auto name = nlohmann::json::parse(literal.begin(), literal.end());
  Tool tool = {
      .name = SpelledName(name.is_string() ? name.get<std::string>() : name.dump(), syntax),
      .arguments = is_xml ? AnyXmlArguments() : JsonPart(kAnyJsonObject),
      .is_strict = JsonMember(function, "strict") == "true"};
  if (!tool.is_strict) return tool;
  auto parameters = JsonMember(function, "parameters");
  if (!parameters || *parameters == "null") parameters = kEmptyJsonObject;
  ASSIGN_OR_RETURN(const std::string schema,
                   CheckedJsonSchema(*parameters, quotas, is_xml ? kNotInXmlPatterns : ""));
  if (is_xml) {
    ASSIGN_OR_RETURN(tool.arguments, XmlArguments(schema));
  } else {
    tool.arguments = JsonPart(schema);
  }
  return tool;
}

absl::StatusOr<std::vector<Tool>> ReadTools(const v1::ChatMessages& chat, ToolSyntax syntax) {
  if (chat.tools_size() > kMostTools) {
    return WrongField(
        "chat.tools", absl::StrCat("a list of ", chat.tools_size()),
        absl::StrCat("at most ", kMostTools, " tools where one is strict or a call is forced"));
  }
  std::vector<Tool> tools;
  SchemaQuotas quotas;  // shared by all tools
  for (int i = 0; i < chat.tools_size(); ++i) {
    absl::StatusOr<Tool> tool = ReadTool(chat.tools(i), syntax, quotas);
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
  Calls(ToolSyntax syntax, std::vector<Tool> tools)
      : syntax_(syntax), spelling_(SpellingOf(syntax)), tools_(std::move(tools)) {}

  bool Has(absl::string_view name) const {
    return std::any_of(tools_.begin(), tools_.end(),
                       [&](const Tool& tool) { return tool.name == SpelledName(name, syntax_); });
  }
  bool has_strict() const {
    return std::any_of(tools_.begin(), tools_.end(), [](const Tool& t) { return t.is_strict; });
  }

  // Allows any number of calls: between any text or, if the syntax has no mark, either calls alone
  // or text that does not begin like a JSON object.
  StructuralPart Free() const {
    if (spelling_.mark.empty()) return OneOf({Alone(), kTextThatIsNoJson});
    const bool is_list = !spelling_.before_all.empty();
    const std::string tags =
        is_list ? absl::StrCat("[", Tag(spelling_.before_all, Several(), spelling_.after_all), "]")
                : Tags();
    const std::string excludes =
        spelling_.other_mark.empty() ? "" : JsonString(spelling_.other_mark);
    return absl::StrCat("{", kFreeText, R"(, "triggers": [)", JsonString(spelling_.mark),
                        R"(], "excludes": [)", excludes, R"(], "tags": )", tags, "}");
  }

  // Allows one or more calls, and nothing else.
  StructuralPart Alone() const {
    return InTurn({TextPart(spelling_.before_all), Several(), TextPart(spelling_.after_all)});
  }

  // Allows the rest of a call that the prompt begins: from the arguments of the tool `name` or,
  // without a name, from the name; then more calls may follow.
  StructuralPart Begun(absl::string_view name) const {
    const StructuralPart after = TextPart(spelling_.after), end = TextPart(spelling_.after_all);
    std::vector<StructuralPart> rests;
    for (const Tool& tool : tools_) {
      if (name.empty()) {
        const std::string begin = absl::StrCat(tool.name, spelling_.before_arguments);
        rests.push_back(InTurn({TextPart(begin), tool.arguments, after}));
      } else if (tool.name == SpelledName(name, syntax_)) {
        const bool has_space = absl::EndsWith(spelling_.before_arguments, " ");
        return InTurn({TextPart(has_space ? " " : ""), tool.arguments, after, end});
      }
    }
    const StructuralPart more = InTurn({TextPart(spelling_.between), Several()});
    return InTurn({OneOf(rests), Optional(more), end});
  }

 private:
  static std::string Tag(absl::string_view begin, const StructuralPart& content,
                         absl::string_view end) {
    return absl::StrCat(R"({"type": "tag", "begin": )", JsonString(begin), R"(, "content": )",
                        content, R"(, "end": )", JsonString(end), "}");
  }

  std::string Tags() const {
    std::vector<std::string> tags;
    for (const Tool& tool : tools_) {
      tags.push_back(Tag(absl::StrCat(spelling_.before_name, tool.name, spelling_.before_arguments),
                         tool.arguments, spelling_.after));
    }
    return absl::StrCat("[", absl::StrJoin(tags, ", "), "]");
  }

  // Allows one or more calls, without the delimiters around them all.
  StructuralPart Several() const {
    return absl::StrCat(R"({"type": "tags_with_separator", "at_least_one": true, "separator": )",
                        JsonString(spelling_.between), R"(, "tags": )", Tags(), "}");
  }

  const ToolSyntax syntax_;
  const CallSpelling& spelling_;
  const std::vector<Tool> tools_;
};

std::string Structure(const StructuralPart& whole) {
  return absl::StrCat(R"({"type": "structural_tag", "format": )", whole, "}");
}

}  // namespace

absl::StatusOr<std::string> OutputStructure(const v1::GenerateRequest& request, ToolSyntax syntax) {
  const v1::ChatMessages& chat = request.chat();
  StructuralPart json;
  if (!request.json_schema().empty()) {
    const auto schema = CheckedJsonSchema(request.json_schema());
    if (!schema.ok()) {
      return WithField(
          absl::InvalidArgumentError(absl::StrCat("json_schema", schema.status().message())),
          "json_schema");
    }
    json = JsonPart(*schema);
  }
  if (chat.tools().empty() || syntax == ToolSyntax::kNone) {
    return json.empty() ? json : Structure(json);
  }
  if (syntax == ToolSyntax::kLlama3 && !json.empty()) {
    return WrongField("json_schema", "set", "it left out beside tools, whose calls are JSON, too");
  }
  ASSIGN_OR_RETURN(std::vector<Tool> tools, ReadTools(chat, syntax));
  const Calls calls(syntax, std::move(tools));
  if (chat.has_forced_call()) {
    const std::string& name = chat.forced_call();
    if (!name.empty() && !calls.Has(name)) {
      return WrongField("chat.forced_call", JsonString(name), "the name of one of chat.tools");
    }
    return Structure(calls.Begun(name));
  }
  if (!json.empty()) return Structure(OneOf({json, calls.Alone()}));
  return calls.has_strict() ? Structure(calls.Free()) : "";
}

}  // namespace kvship
