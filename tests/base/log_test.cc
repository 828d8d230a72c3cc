#include "base/log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace kvship {
namespace {

using ::testing::EndsWith;
using ::testing::MatchesRegex;

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

TEST(Log, ReaderThatHasStoppedLosesLinesAndHoldsUpNobody) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  const int own = dup(STDERR_FILENO);
  dup2(ends[1], STDERR_FILENO);
  StartLog("unread", LogFormat::kText);
  const auto read_all = [&] {
    std::string text(1 << 20, '\0');
    text.resize(std::max<ssize_t>(read(ends[0], text.data(), text.size()), 0));
    return text;
  };
  const std::string filling(1000, 'x');
  for (int i = 0; i < 1000; ++i) LogInfo(filling);
  const std::string written = read_all();
  LogInfo("there again");
  LogInfo("and again");
  const std::string after = read_all();
  dup2(own, STDERR_FILENO);
  for (const int descriptor : {own, ends[0], ends[1]}) close(descriptor);
  const size_t num_written = std::count(written.begin(), written.end(), '\n');
  EXPECT_GT(num_written, 0u);
  EXPECT_THAT(after,
              MatchesRegex(absl::StrCat(
                  ".* W unread: lines of the log lost, as nobody read it: ", 1000 - num_written,
                  "\n.* I unread: there again\n.* I unread: and again\n")));
}

TEST(Log, OtherFormatsAreRefused) {
  EXPECT_EQ(ParseLogFormat("yaml").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvship
