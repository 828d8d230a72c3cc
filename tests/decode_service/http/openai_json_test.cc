#include "decode_service/http/openai_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvship {
namespace {

using ::testing::HasSubstr;

TEST(OpenAiJsonTest, ValuesAreCountedButForNumbersInLists) {
  for (const char* body : {R"({"a":1,"b":""})", R"([[1,2,3,4],[]])", "[null,true,5]"}) {
    EXPECT_TRUE(ParseBody(body, 2).ok()) << body;
    EXPECT_THAT(std::string(ParseBody(body, 1).status().message()),
                HasSubstr("the body has more than 1 values beside numbers in lists"))
        << body;
  }
  EXPECT_TRUE(ParseBody("[1,2,3]", 0).ok());
}

}  // namespace
}  // namespace kvship
