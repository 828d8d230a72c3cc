// Constrains tool arguments in the XML-like syntax of some models, in bare text
// (ToolSyntax::kQwenXml). XGrammar's own form of it ("qwen_xml_parameter") allows white space
// around strings that their schema does not allow, and the end mark inside them; so the structure
// is built here from parts that engine/xml_calls.h parses as they were meant. Pure functions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "decode_service/grammar/structural_tag.h"

namespace kvship {

// Allows any arguments.
StructuralPart AnyXmlArguments();

// Allows the arguments of a schema that CheckedJsonSchema accepted with kNotInXmlPatterns as
// `not_in_patterns`. InvalidArgument, to be appended to the name of the schema's field, if the
// arguments would be ambiguous in bare text.
absl::StatusOr<StructuralPart> XmlArguments(const std::string& schema);

// Every mark contains this character.
inline constexpr absl::string_view kNotInXmlPatterns = "<";

}  // namespace kvship
