#include "base/read_file.h"

#include <gtest/gtest.h>

#include "tests/temp_folder.h"

namespace kvship {
namespace {

TEST(ReadFile, GivesAllBytes) {
  const TempFolder folder;
  for (const std::string& content :
       {std::string(), std::string("a\0b\r\n", 5), std::string(200'000, 'x')}) {
    EXPECT_EQ(ReadFile(folder.Write("file", content)), content);
  }
}

TEST(ReadFile, GivesNothingOfWhatCannotBeRead) {
  EXPECT_EQ(ReadFile("/nowhere"), std::nullopt);
  EXPECT_EQ(ReadFile("/"), std::nullopt);
}

}  // namespace
}  // namespace kvship
