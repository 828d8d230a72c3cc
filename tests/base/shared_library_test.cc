#include "base/shared_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvship {
namespace {

using ::testing::HasSubstr;

TEST(SharedLibraryTest, GivesFunctionsByTheirNames) {
  SharedLibrary library("libm.so.6", "the C library");
  double (*const square_root)(double) = library.Find("sqrt");
  ASSERT_TRUE(library.status().ok()) << library.status();
  EXPECT_EQ(square_root(49), 7);
}

TEST(SharedLibraryTest, SaysWhatToInstallWhereItIsMissing) {
  SharedLibrary library("libkvship_nowhere.so.2", "Nowhere 2");
  void (*const function)() = library.Find("anything");
  EXPECT_EQ(function, nullptr);
  EXPECT_TRUE(absl::IsFailedPrecondition(library.status()));
  EXPECT_THAT(library.status().message(),
              ::testing::AllOf(HasSubstr("libkvship_nowhere.so.2 cannot be opened"),
                               HasSubstr("wanted Nowhere 2 installed")));
}

TEST(SharedLibraryTest, NamesTheFirstFunctionThatItLacks) {
  SharedLibrary library("libm.so.6", "the C library");
  void (*const first)() = library.Find("no_such_function");
  void (*const second)() = library.Find("nor_this");
  EXPECT_TRUE(first == nullptr && second == nullptr);
  EXPECT_TRUE(absl::IsFailedPrecondition(library.status()));
  EXPECT_THAT(library.status().message(), HasSubstr("libm.so.6 has no function no_such_function"));
}

}  // namespace
}  // namespace kvship
