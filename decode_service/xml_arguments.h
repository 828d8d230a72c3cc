// The arguments of a tool as models write them between marks as in XML, in bare text
// (ToolSyntax::kQwenXml). XGrammar has a form for them ("qwen_xml_parameter"), whose strings may
// have white space around them that their schema does not allow, or the mark of their own end; so
// they are put together here, of parts that engine/xml_calls.h reads as they were meant. Pure
// functions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "decode_service/structural_tag.h"

namespace kvship {

// Any arguments.
StructuralPart AnyXmlArguments();

// Those of a schema that CheckedJsonSchema has let through, told that patterns shall be without
// kNotInXmlPatterns. InvalidArgument, to be read behind the name of the schema's field: they cannot
// be told apart in bare text.
absl::StatusOr<StructuralPart> XmlArguments(const std::string& schema);

// No text without it has a mark.
inline constexpr absl::string_view kNotInXmlPatterns = "<";

}  // namespace kvship
