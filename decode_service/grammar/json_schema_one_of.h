// Of "oneOf" a value fits exactly one schema. Where no two can fit, that is "anyOf". A part of
// json_schema.h.
#pragma once

#include <nlohmann/json.hpp>

namespace kvship {

// Whether it can be seen that no value of one of the alternatives, as they are held, fits another
// one, as it came: their types differ, or their values, or those of a property that both require.
// `root` has the definitions that references name.
bool AreDisjointSchemas(const nlohmann::ordered_json& held, const nlohmann::ordered_json& came,
                        const nlohmann::ordered_json& root);

}  // namespace kvship
