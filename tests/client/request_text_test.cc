#include "client/request_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/temp_folder.h"

namespace kvship {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::Status InputStatus(const PromptSource& source) {
  v1::GenerateRequest request;
  return SetInput(source, &request);
}

TEST(RequestTextTest, PromptIsTextOrAChat) {
  v1::GenerateRequest request;
  ASSERT_TRUE(SetInput({.text = "hello"}, &request).ok());
  EXPECT_EQ(request.prompt(), "hello");
  ASSERT_TRUE(SetInput({.text = "hello", .chat = true, .system = "be brief"}, &request).ok());
  ASSERT_EQ(request.chat().messages_size(), 2);
  EXPECT_EQ(request.chat().messages(0).role(), "system");
  EXPECT_EQ(request.chat().messages(1).role(), "user");
  EXPECT_EQ(request.chat().messages(1).content(), "hello");
}

TEST(RequestTextTest, FilesAreTakenAsTheyAre) {
  const TempFolder folder;
  const std::string file = folder.Write("prompt", "line one\r\n \u20ac\n");
  v1::GenerateRequest request;
  ASSERT_TRUE(SetInput({.text_file = file}, &request).ok());
  EXPECT_EQ(request.prompt(), "line one\r\n \u20ac\n");
}

TEST(RequestTextTest, WhatIsNotUtf8IsNamedByItsByte) {
  const TempFolder folder;
  const std::string latin = folder.Write("latin", "caf\xe9 au lait");
  EXPECT_THAT(std::string(InputStatus({.text_file = latin}).message()),
              AllOf(HasSubstr(latin), HasSubstr("is not UTF-8 at byte 3 (0xE9")));
  EXPECT_THAT(std::string(InputStatus({.text = "\xff", .chat = true}).message()),
              HasSubstr("--prompt is not UTF-8 at byte 0"));
  EXPECT_THAT(std::string(InputStatus({.text = "a", .chat = true, .system = "b\xff"}).message()),
              HasSubstr("--system is not UTF-8 at byte 1"));
}

TEST(RequestTextTest, TokensFileIsAJsonList) {
  const TempFolder folder;
  v1::GenerateRequest request;
  ASSERT_TRUE(SetInput({.tokens_file = folder.Write("ids", "[1, 2, 300]")}, &request).ok());
  EXPECT_THAT(request.tokens().ids(), ElementsAre(1, 2, 300));
}

TEST(RequestTextTest, WrongInputsAreNamed) {
  EXPECT_THAT(std::string(InputStatus({}).message()), HasSubstr("0 of --prompt"));
  EXPECT_THAT(std::string(InputStatus({.text = "a", .text_file = "b"}).message()),
              HasSubstr("2 of --prompt"));
  EXPECT_THAT(std::string(InputStatus({.text = "a", .system = "b"}).message()),
              HasSubstr("--system is given without --chat"));
  EXPECT_THAT(std::string(InputStatus({.text_file = "/no/such/file"}).message()),
              HasSubstr("/no/such/file"));
  const TempFolder folder;
  for (const char* content : {"{}", "[1, -2]", "[1, \"x\"]", "[1.5]", "[4294967296]", "nonsense"}) {
    EXPECT_EQ(InputStatus({.tokens_file = folder.Write("ids", content)}).code(),
              absl::StatusCode::kInvalidArgument)
        << content;
  }
}

}  // namespace
}  // namespace kvship
