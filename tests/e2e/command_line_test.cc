// What the programs tell of themselves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/e2e/processes.h"

namespace kvship {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(CommandLineTest, HelpTellsTheProgramsOwnFlagsAndVersionWhichItIs) {
  for (const auto& [program, flag] :
       {std::pair{"kvship-prefill", "--max_active_bytes ("},
        std::pair{"kvship-decode", "--pool_bytes ("}, std::pair{"kvship", "--max_tokens ("}}) {
    SCOPED_TRACE(program);
    Process help(program, {"--help"});
    help.Wait();
    EXPECT_THAT(help.Output(),
                AllOf(HasSubstr(flag), HasSubstr("default: "), Not(HasSubstr("--undefok"))));
    Process version(program, {"--version"});
    EXPECT_EQ(version.Wait(), 0);
    EXPECT_THAT(version.Output(), StartsWith("kvship " KVSHIP_VERSION "\n"));
  }
}

TEST(CommandLineTest, NamesOfFlagsMayHaveDashes) {
  for (const std::string program : {"kvship-prefill", "kvship-decode"}) {
    Process server(program, {"--model=/nowhere", "--log-format=json"});
    EXPECT_EQ(server.Wait(), 1);
    EXPECT_THAT(server.Errors(), HasSubstr("/nowhere")) << program;
  }
}

TEST(CommandLineTest, NumbersOutOfRangeAreRefusedByTheFlagsName) {
  for (const auto& [program, flag, wanted] :
       {std::tuple{"kvship-prefill", "--max_queue_tokens=0", "at least 1"},
        std::tuple{"kvship-prefill", "--go_timeout=-1s", "more than 0"},
        std::tuple{"kvship-decode", "--default_max_tokens=0", "at least 1"},
        std::tuple{"kvship-decode", "--max_batch_sessions=0", "at least 1"},
        std::tuple{"kvship-decode", "--max_waiting_tokens=0", "at least 1"},
        std::tuple{"kvship-decode", "--max_unread_tokens=0", "at least 1"},
        std::tuple{"kvship-decode", "--max_http_requests=0", "at least 1"},
        std::tuple{"kvship-decode", "--default_deadline=-1s", "more than 0"},
        std::tuple{"kvship-decode", "--http_deadline=-1s", "more than 0"},
        std::tuple{"kvship-decode", "--max_message_bytes=4294967295", "1 to 2147483647"},
        std::tuple{"kvship-decode", "--max_message_bytes=4294967296", "1 to 2147483647"},
        std::tuple{"kvship-decode", "--max_streams=0", "1 to 2147483647"}}) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(flag, '=');
    Process server(program, {"--model=/nowhere", flag});
    EXPECT_EQ(server.Wait(), 1);
    EXPECT_THAT(server.Errors(),
                HasSubstr(absl::StrCat(parts.first, " is ", parts.second, "; wanted ", wanted)));
  }
}

}  // namespace
}  // namespace kvship
