// The types of the values that a JSON schema allows. Pure functions; the schemas may be any JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "absl/strings/string_view.h"

namespace kvship {

// Names of JSON Schema's types.
using JsonTypes = std::set<std::string, std::less<>>;

// The types of the values that a schema allows; only "string" if it states none. `root` has the
// definitions that the schema may refer to.
JsonTypes JsonTypesOf(const nlohmann::ordered_json& schema, const nlohmann::ordered_json& root);

// What `schema` refers to within `root`, or `schema` itself; borrowed from one of the two.
const nlohmann::ordered_json& ReferredSchema(const nlohmann::ordered_json& schema,
                                             const nlohmann::ordered_json& root);

// Decodes the %XX escapes of a URI reference.
std::string WithoutPercents(absl::string_view reference);

}  // namespace kvship
