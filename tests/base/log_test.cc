#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvship {
namespace {

using ::testing::EndsWith;

std::string LogLine(LogFormat format) {
  ::testing::internal::CaptureStderr();
  StartLog(format == LogFormat::kJson ? "json" : "text", format);
  LogInfo("a \"request\"", {{"id", "x\ny"}, {"tokens", uint64_t{7}}, {"time_ms", 1.23456}});
  return ::testing::internal::GetCapturedStderr();
}

TEST(Log, FieldsStandBehindTheMessageInText) {
  EXPECT_THAT(LogLine(LogFormat::kText),
              EndsWith("text: a \"request\" id=\"x\\ny\" tokens=7 time_ms=1.235\n"));
}

TEST(Log, FieldsAreMembersOfTheLinesObjectInJson) {
  EXPECT_THAT(LogLine(LogFormat::kJson),
              EndsWith(R"("program":"json","message":"a \"request\"","id":"x\ny","tokens":7,)"
                       R"("time_ms":1.235})"
                       "\n"));
}

TEST(Log, OtherFormatsAreRefused) {
  EXPECT_EQ(ParseLogFormat("yaml").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvship
