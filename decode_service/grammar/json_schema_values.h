// Reads and checks single keywords of a JSON schema: types, values, counts and bounds. Part of
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

// The supported types, and the keywords of each.
const std::map<std::string, SchemaNames, std::less<>>& KeywordsOfTypes();

// The error "PATH is IS; wanted WANTED"; truncates a long value.
absl::Status WrongSchema(absl::string_view path, const nlohmann::ordered_json& is,
                         absl::string_view wanted);

// The types in "type", a name or a list of names; empty if absent.
absl::StatusOr<SchemaNames> SchemaTypes(const nlohmann::ordered_json& schema,
                                        const std::string& path);

bool IsOfSchemaType(const nlohmann::ordered_json& value, absl::string_view type);

// Returns whether XGrammar reproduces the value's numbers exactly.
bool IsExactInSchema(const nlohmann::ordered_json& value);

// Checks two keywords: each a number from 0 to `most_of_all`, the first at most the second.
absl::Status CheckSchemaCounts(const nlohmann::ordered_json& schema, const char* least,
                               const char* most, int64_t most_of_all, const std::string& path);

bool HasSchemaBounds(const nlohmann::ordered_json& schema);
// Checks bounds of numbers, which must leave at least one number that XGrammar can write.
absl::Status CheckSchemaBounds(const nlohmann::ordered_json& schema, const SchemaNames& types,
                               const std::string& path);

}  // namespace kvship
