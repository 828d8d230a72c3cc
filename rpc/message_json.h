// Converts messages of kvship.v1 to JSON for people and programs, with the fields' own names in
// declaration order. Pure functions.
#pragma once

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>

namespace kvship {

// Returns the non-repeated fields of a message; bytes in hexadecimal. With `only_set`, only set
// ones.
nlohmann::ordered_json MessageFields(const google::protobuf::Message& message, bool only_set);

}  // namespace kvship
