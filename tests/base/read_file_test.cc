#include "base/read_file.h"

#include <gtest/gtest.h>

#include <fstream>

namespace kvship {
namespace {

TEST(ReadFile, GivesAllBytes) {
  const std::string path = testing::TempDir() + "kvship_read_file_test";
  for (const std::string& content :
       {std::string(), std::string("a\0b\r\n", 5), std::string(200'000, 'x')}) {
    std::ofstream(path, std::ios::binary) << content;
    EXPECT_EQ(ReadFile(path), content);
  }
  std::remove(path.c_str());
}

TEST(ReadFile, GivesNothingOfWhatCannotBeRead) {
  EXPECT_EQ(ReadFile("/nowhere"), std::nullopt);
  EXPECT_EQ(ReadFile("/"), std::nullopt);
}

}  // namespace
}  // namespace kvship
