// What a refused body of OpenAI's API says.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/status/statusor.h"
#include "decode_service/http/openai_request.h"
#include "rpc/errors.h"

namespace kvship {

// With this field, and this as a part of its message.
inline void ExpectRefused(const absl::StatusOr<OpenAiRequest>& read, const std::string& field,
                          const std::string& message) {
  EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << read.status();
  EXPECT_EQ(FieldOf(read.status()), field);
  EXPECT_THAT(std::string(read.status().message()), ::testing::HasSubstr(message));
}

}  // namespace kvship
