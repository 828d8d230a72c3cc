// Parts of an output's structure in the words of structural tags, JSON by which XGrammar is told of
// them. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace kvship {

// Begins a part that is any text, thoughts among it, and calls in it.
inline constexpr absl::string_view kFreeText = R"("type": "triggered_tags")";

using StructuralPart = std::string;

StructuralPart TextPart(absl::string_view text);
// Text that does not have `excluded` in it.
StructuralPart AnyTextPart(absl::string_view excluded);
// Text that a regular expression matches from its beginning to its end.
StructuralPart PatternPart(absl::string_view pattern);
// JSON of a schema that XGrammar can hold an output to (json_schema.h).
StructuralPart JsonPart(absl::string_view schema);

StructuralPart InTurn(const std::vector<StructuralPart>& parts);
StructuralPart OneOf(const std::vector<StructuralPart>& parts);
StructuralPart Optional(const StructuralPart& part);
// Without a `most`: any number from `least` on.
StructuralPart Repeated(const StructuralPart& part, int least, int most = -1);

}  // namespace kvship
