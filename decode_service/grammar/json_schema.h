// JSON schemas that can constrain an output. CheckedJsonSchema accepts what XGrammar implements
// exactly, and rejects by name what XGrammar implements differently or not at all. Pure functions;
// any input bytes are safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "decode_service/grammar/compile_work.h"

namespace kvship {

inline constexpr char kEmptyJsonObject[] = R"({"type": "object", "additionalProperties": false})";
// A schema that any JSON object matches.
inline constexpr char kAnyJsonObject[] = R"({"type": "object", "additionalProperties": true})";

// A limit on one resource of all schemas of a request, and its use so far.
struct SchemaQuota {
  absl::string_view of;
  size_t most;
  size_t used = 0;
};
// Hand-written schemas stay far below. Above, XGrammar may take long to compile or to match. The
// others together would allow schemas that take it half a minute; `microseconds` bounds the sum.
struct SchemaQuotas {
  SchemaQuota alternatives = {"further alternatives of anyOf and oneOf", 64};
  SchemaQuota properties = {"properties and prefixItems", 512};
  SchemaQuota values = {"values of enum and const", 500};
  SchemaQuota value_bytes = {"bytes of values", 16 << 10};
  SchemaQuota references = {"references", 300};
  SchemaQuota formats = {"formats", 100};
  SchemaQuota bounded = {"numbers with bounds", 400};
  SchemaQuota patterns = {"steps to match patterns", 1000};
  SchemaQuota microseconds = {"microseconds to compile, as estimated", 2'000'000};
  CompileWork work = {.rules = 25};  // of any schema
};

// Returns a schema for XGrammar that allows what `text` does. InvalidArgument, to be appended to
// the name of the schema's field (".properties.age.multipleOf is 2; wanted ..."), if `text` is not
// JSON, not a supported schema, or exceeds what is left of the quotas. Strings with patterns
// exclude the characters of `not_in_patterns`.
absl::StatusOr<std::string> CheckedJsonSchema(absl::string_view text, SchemaQuotas& quotas,
                                              absl::string_view not_in_patterns = "");
inline absl::StatusOr<std::string> CheckedJsonSchema(absl::string_view text) {
  SchemaQuotas quotas;
  return CheckedJsonSchema(text, quotas);
}

}  // namespace kvship
