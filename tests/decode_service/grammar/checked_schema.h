// For tests of which schemas are held, and how.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/string_view.h"
#include "decode_service/grammar/json_schema.h"

namespace kvship {

// What becomes of a schema, or the message that refuses it.
inline std::string Checked(absl::string_view schema) {
  const auto checked = CheckedJsonSchema(schema);
  if (checked.ok()) return *checked;
  EXPECT_TRUE(absl::IsInvalidArgument(checked.status())) << checked.status();
  return std::string(checked.status().message());
}

}  // namespace kvship
