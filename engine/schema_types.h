// What a JSON schema says of the types of the values that it allows. Pure functions; the schemas
// may be any JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "absl/strings/string_view.h"

namespace kvship {

// Names of JSON Schema's types.
using JsonTypes = std::set<std::string, std::less<>>;

// Those of the values that a schema allows; "string" alone where it says nothing of them. `root`
// has the definitions that it may refer to.
JsonTypes JsonTypesOf(const nlohmann::ordered_json& schema, const nlohmann::ordered_json& root);

// What a schema refers to within `root`, or itself. Borrowed of the two.
const nlohmann::ordered_json& ReferredSchema(const nlohmann::ordered_json& schema,
                                             const nlohmann::ordered_json& root);

// A reference without %XX, in which URIs write what they cannot have.
std::string WithoutPercents(absl::string_view reference);

}  // namespace kvship
