#include "decode_service/grammar/structural_tag.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/json_text.h"

namespace kvship {
namespace {

// White space between two tokens of JSON: a line end and some levels of indentation. Without a
// bound a model that has lost its way writes no more than that.
constexpr int kMostSpaces = 32;

StructuralPart Several(absl::string_view type, const std::vector<StructuralPart>& parts) {
  return absl::StrCat(R"({"type": ")", type, R"(", "elements": [)", absl::StrJoin(parts, ", "),
                      "]}");
}

}  // namespace

StructuralPart TextPart(absl::string_view text) {
  return absl::StrCat(R"({"type": "const_string", "value": )", JsonString(text), "}");
}

StructuralPart AnyTextPart(absl::string_view excluded) {
  return absl::StrCat(R"({"type": "any_text", "excludes": [)", JsonString(excluded), "]}");
}

StructuralPart PatternPart(absl::string_view pattern) {
  return absl::StrCat(R"({"type": "regex", "pattern": )", JsonString(pattern), "}");
}

StructuralPart JsonPart(absl::string_view schema) {
  return absl::StrCat(R"({"type": "json_schema", "max_whitespace_cnt": )", kMostSpaces,
                      R"(, "json_schema": )", schema, "}");
}

StructuralPart InTurn(const std::vector<StructuralPart>& parts) {
  return Several("sequence", parts);
}

StructuralPart OneOf(const std::vector<StructuralPart>& parts) { return Several("or", parts); }

StructuralPart Optional(const StructuralPart& part) {
  return absl::StrCat(R"({"type": "optional", "content": )", part, "}");
}

StructuralPart Repeated(const StructuralPart& part, int least, int most) {
  return absl::StrCat(R"({"type": "repeat", "min": )", least, R"(, "max": )", most,
                      R"(, "content": )", part, "}");
}

}  // namespace kvship
