// A JSON schema that an output is to be held to, or a tool.
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "decode_service/grammar/json_schema.h"
#include "decode_service/grammar/output_structure.h"
#include "tests/fuzz/require.h"

namespace kvship {
namespace {

using nlohmann::json;

// Ends where a schema, or one of those in it, has a keyword that XGrammar would not heed.
void RequireKnown(const json& schema) {
  static const std::set<std::string> known = {
      "$defs",       "$ref",     "additionalProperties",
      "anyOf",       "const",    "definitions",
      "enum",        "format",   "exclusiveMaximum",
      "items",       "maxItems", "exclusiveMinimum",
      "maximum",     "minItems", "maxLength",
      "minLength",   "minimum",  "oneOf",
      "type",        "required", "properties",
      "prefixItems", "pattern",
  };
  if (schema.is_boolean()) return;
  Require(schema.is_object(), "a schema is an object or a boolean");
  for (const auto& [name, value] : schema.items()) {
    Require(known.contains(name), "no other keyword is let through");
    const bool names = name == "properties" || name == "$defs" || name == "definitions";
    if (names || name == "anyOf" || name == "oneOf" || name == "prefixItems") {
      for (const json& each : value) RequireKnown(each);
    }
    if (name == "items" || name == "additionalProperties") RequireKnown(value);
  }
}

// As a tool and as what a tool's arguments are held to.
void CheckTools(absl::string_view text) {
  v1::GenerateRequest request;
  v1::ChatMessages& chat = *request.mutable_chat();
  chat.add_tools(std::string(text));
  chat.add_tools(
      absl::StrCat(R"({"function":{"name":"f","strict":true,"parameters":)", text, "}}"));
  const size_t kind = text.size() % 3;
  if (kind > 0) chat.set_forced_call(kind == 1 ? "f" : "");
  const auto structure =
      OutputStructure(request, kToolSyntaxes[text.size() / 3 % std::size(kToolSyntaxes)]);
  if (structure.ok()) {
    Require(structure->empty() || json::accept(*structure), "a structure is JSON");
  } else {
    Require(absl::IsInvalidArgument(structure.status()), "a wrong tool is refused for good");
  }
}

}  // namespace
}  // namespace kvship

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t num_bytes) {
  using namespace kvship;
  const absl::string_view text(reinterpret_cast<const char*>(data), num_bytes);
  CheckTools(text);
  const auto schema = CheckedJsonSchema(text);
  if (!schema.ok()) {
    Require(absl::IsInvalidArgument(schema.status()), "a wrong schema is refused for good");
    const char first = schema.status().message()[0];
    Require(first == '.' || first == ' ', "the message reads well behind the field's name");
    return 0;
  }
  const json read = json::parse(*schema, nullptr, /*allow_exceptions=*/false);
  Require(read.is_object(), "what is let through is a JSON object");
  RequireKnown(read);
  if (absl::StrContains(*schema, "\"pattern\"")) return 0;  // which is written otherwise each time
  const auto again = CheckedJsonSchema(*schema);
  Require(again.ok() && *again == *schema, "what is let through is let through unchanged");
  return 0;
}
