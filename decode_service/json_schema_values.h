// What single keywords of a JSON schema say: types, values, counts and bounds. A part of
// json_schema.h. Pure functions; errors are InvalidArgument and begin with the path.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvship {

using SchemaNames = std::set<std::string, std::less<>>;

// The types there are, and the keywords that go with each.
const std::map<std::string, SchemaNames, std::less<>>& KeywordsOfTypes();

// "PATH is IS; wanted WANTED", with a long value cut.
absl::Status WrongSchema(absl::string_view path, const nlohmann::ordered_json& is,
                         absl::string_view wanted);

// Those of "type", a name or a list of them; none where it is not given.
absl::StatusOr<SchemaNames> SchemaTypes(const nlohmann::ordered_json& schema,
                                        const std::string& path);

bool IsOfSchemaType(const nlohmann::ordered_json& value, absl::string_view type);

// Whether XGrammar writes the value's numbers as they are.
bool IsExactInSchema(const nlohmann::ordered_json& value);

// Two keywords, each a number from 0 to `most_of_all`, the first at most the second.
absl::Status CheckSchemaCounts(const nlohmann::ordered_json& schema, const char* least,
                               const char* most, int64_t most_of_all, const std::string& path);

bool HasSchemaBounds(const nlohmann::ordered_json& schema);
// Bounds of numbers, which must leave one that XGrammar can write between them.
absl::Status CheckSchemaBounds(const nlohmann::ordered_json& schema, const SchemaNames& types,
                               const std::string& path);

}  // namespace kvship
