#include "client/stop_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvship {
namespace {

using ::testing::ElementsAre;

TEST(StopFlags, AreTakenInTheirOrderWithOneDashOrTwo) {
  std::vector<std::string> line = {"kvship",   "generate", "--stop=one", "-stop=two", "--stop",
                                   "three",    "-stop",    "four",       "--stop=",   "--prompt=x",
                                   "-stops=y", "--",       "stop=z"};
  std::vector<char*> arguments;
  for (std::string& argument : line) arguments.push_back(argument.data());
  EXPECT_THAT(TakeStopFlags(&arguments), ElementsAre("one", "two", "three", "four", ""));
  EXPECT_THAT(std::vector<std::string>(arguments.begin(), arguments.end()),
              ElementsAre("kvship", "generate", "--prompt=x", "-stops=y", "--", "stop=z"));
}

TEST(StopFlags, WithoutATextAreLeftToAbseil) {
  std::string flag = "-stop";
  std::vector<char*> arguments = {flag.data()};
  EXPECT_THAT(TakeStopFlags(&arguments), ElementsAre());
  EXPECT_EQ(arguments.size(), 1u);
}

}  // namespace
}  // namespace kvship
