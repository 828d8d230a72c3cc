// Messages of kvship.v1 as JSON for people and programs, under the fields' own names and in the
// order in which they are declared. Pure functions.
#pragma once

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>

namespace kvship {

// The fields of a message but for repeated ones; bytes in hexadecimal. With `only_set`, those that
// were set.
nlohmann::ordered_json MessageFields(const google::protobuf::Message& message, bool only_set);

}  // namespace kvship
