// JSON schemas that an output can be held to: CheckedJsonSchema lets through what XGrammar does
// exactly, and refuses by name what it would do otherwise or not at all. Pure functions; any bytes
// are fine.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

// The schema of any JSON object.
inline constexpr char kAnyJsonObject[] = R"({"type": "object", "additionalProperties": true})";

// How much of something the schemas of a request have, and may have.
struct SchemaQuota {
  absl::string_view of;
  size_t most;
  size_t used = 0;
};
// Schemas that people write stay far below. Beyond, XGrammar may take long to compile or to match.
struct SchemaQuotas {
  SchemaQuota alternatives = {"further alternatives of anyOf and oneOf", 64};
  SchemaQuota properties = {"properties and prefixItems", 512};
  SchemaQuota values = {"values of enum and const", 500};
  SchemaQuota value_bytes = {"bytes of values", 16 << 10};
  SchemaQuota references = {"references", 300};
  SchemaQuota formats = {"formats", 100};
  SchemaQuota bounded = {"numbers with bounds", 400};
  SchemaQuota patterns = {"steps to match patterns", 1000};
};

// A schema for XGrammar that allows what `text` does. InvalidArgument, to be read behind the name
// of the schema's field (".properties.age.multipleOf is 2; wanted ..."): it is no JSON, no schema
// that an output can be held to, or more than is left of the quotas. Strings of patterns have no
// character of `not_in_patterns`.
absl::StatusOr<std::string> CheckedJsonSchema(absl::string_view text, SchemaQuotas& quotas,
                                              absl::string_view not_in_patterns = "");
inline absl::StatusOr<std::string> CheckedJsonSchema(absl::string_view text) {
  SchemaQuotas quotas;
  return CheckedJsonSchema(text, quotas);
}

}  // namespace kvship
