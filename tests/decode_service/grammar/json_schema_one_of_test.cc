#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "decode_service/grammar/json_schema.h"

namespace kvship {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Pydantic's way to tell objects apart.
std::string Tagged(absl::string_view dog) {
  return absl::StrCat(R"({"$defs": {
      "Cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
      "Dog": {"type": "object", "properties": {"kind": )",
                      dog, R"(}, "required": ["kind"]}},
      "discriminator": {"propertyName": "kind"},
      "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]})");
}

TEST(JsonSchemaOneOfTest, IsTakenWhereNoTwoCanFit) {
  const std::string schemas[] = {
      Tagged(R"({"enum": ["dog", "wolf"]})"),
      R"({"oneOf": [{"type": "string"}, {"type": ["integer", "null"]}]})",
      R"({"oneOf": [{"type": "object"}, {"type": "null"}]})",
      R"({"oneOf": [{"enum": [1, "x"]}, {"const": "y"}, {"type": "array"}]})",
      // Objects are told apart with their type left out.
      R"({"oneOf": [{"properties": {"is": {"const": {"a": 1}}}, "required": ["is"]},
                    {"properties": {"is": {"const": {"a": 2}}}, "required": ["is"]}]})",
      R"({"oneOf": [{"properties": {"is": {"const": "a"}}, "required": ["is"]},
                    {"type": "object", "properties": {"is": {"enum": ["b"]}},
                     "required": ["is"]}]})",
      R"({"$defs": {"a b": {"type": "string"}},
          "oneOf": [{"$ref": "#/$defs/a%20b"}, {"type": "integer"}]})",
  };
  for (const std::string& schema : schemas) {
    const auto checked = CheckedJsonSchema(schema);
    ASSERT_TRUE(checked.ok()) << checked.status();
    EXPECT_THAT(*checked, HasSubstr("anyOf"));
  }
}

TEST(JsonSchemaOneOfTest, IsRefusedWhereTwoMayFit) {
  const std::string schemas[] = {
      Tagged(R"({"enum": ["dog", "cat"]})"),
      Tagged(R"({"type": "string"})"),
      R"({"oneOf": [{"type": "number"}, {"type": "integer"}]})",
      R"({"oneOf": [{}, {"type": "null"}]})",
      R"({"oneOf": [{"enum": [1, 2]}, {"enum": [1.0, 3]}]})",
      R"({"oneOf": [{"type": "integer", "minimum": 0}, {"const": -1}]})",
      R"({"oneOf": [{"$ref": "#"}, {"type": "null"}]})",
      R"({"oneOf": [{"properties": {"k": {"const": 1}}}, {"properties": {"k": {"const": 2}}}]})",
      // By themselves properties and items allow values of other types.
      R"({"oneOf": [{"type": "integer"}, {"properties": {"a": {}}}]})",
      R"({"oneOf": [{"items": {}}, {"type": "string"}]})",
      R"({"oneOf": [{"const": {"a": 1, "b": 2}}, {"const": {"b": 2, "a": 1}}]})",
      R"({"oneOf": [{"enum": [[{"a": 1, "b": 2}], 3]}, {"const": [{"b": 2, "a": 1}]}]})",
      R"({"$defs": {"a%20b": {"type": "string"}, "a b": {"type": "integer"}},
          "oneOf": [{"$ref": "#/$defs/a%20b"}, {"type": "integer"}]})",
      R"({"$defs": {"a~1b": {"type": "string"}, "a/b": {"type": "integer"}},
          "oneOf": [{"$ref": "#/$defs/a~1b"}, {"type": "integer"}]})",
  };
  for (const std::string& schema : schemas) {
    const absl::Status status = CheckedJsonSchema(schema).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << schema;
    EXPECT_THAT(
        std::string(status.message()),
        AllOf(StartsWith(".oneOf is [{"), HasSubstr("; wanted schemas of which no two can fit")));
  }
}

// Each pair of 64 definitions, none of which has been read, would have 36 million pairs of values.
TEST(JsonSchemaOneOfTest, ComparesNoMoreThanASchemaMayHave) {
  const auto list = [](absl::string_view value) {
    return absl::StrCat("{\"enum\": [", absl::StrJoin(std::vector(6000, value), ","), "]}");
  };
  std::vector<std::string> definitions, references;
  for (int i = 0; i < 64; ++i) {
    definitions.push_back(absl::StrCat("\"d", i, R"(": {"properties": {"a": {"$ref": "#/$defs/k)",
                                       i % 2, R"("}, "z": {"const": )", i,
                                       R"(}}, "type": "object", "required": ["a", "z"]})"));
    references.push_back(absl::StrCat(R"({"$ref": "#/$defs/d)", i, "\"}"));
  }
  const absl::Status status =
      CheckedJsonSchema(absl::StrCat(R"({"$defs": {"all": {"oneOf": [)",
                                     absl::StrJoin(references, ","), R"(]}, "k0": )", list("1"),
                                     R"(, "k1": )", list("2"), ", ",
                                     absl::StrJoin(definitions, ","), "}}"))
          .status();
  EXPECT_THAT(std::string(status.message()), StartsWith(".$defs.all.oneOf is [{"));
}

}  // namespace
}  // namespace kvship
