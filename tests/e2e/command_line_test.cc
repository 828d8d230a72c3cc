// What the programs tell of themselves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

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

}  // namespace
}  // namespace kvship
