#include <gtest/gtest.h>

#include "decode_service/json_schema.h"

namespace kvship {
namespace {

TEST(JsonSchemaOneOfTest, AlternativesThatCanBothFitAreRefused) {
  for (const char* schema : {
           // By themselves properties and items allow values of other types.
           R"({"oneOf": [{"type": "integer"}, {"properties": {"a": {}}}]})",
           R"({"oneOf": [{"items": {}}, {"type": "string"}]})",
           R"({"oneOf": [{"const": {"a": 1, "b": 2}}, {"const": {"b": 2, "a": 1}}]})",
           R"({"oneOf": [{"enum": [[{"a": 1, "b": 2}], 3]}, {"const": [{"b": 2, "a": 1}]}]})",
           R"({"oneOf": [{"const": 1}, {"const": 1.0}]})",
           R"({"$defs": {"a%20b": {"type": "string"}, "a b": {"type": "integer"}},
               "oneOf": [{"$ref": "#/$defs/a%20b"}, {"type": "integer"}]})",
           R"({"$defs": {"a~1b": {"type": "string"}, "a/b": {"type": "integer"}},
               "oneOf": [{"$ref": "#/$defs/a~1b"}, {"type": "integer"}]})",
       }) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckedJsonSchema(schema).status())) << schema;
  }
}

TEST(JsonSchemaOneOfTest, ObjectsAreToldApartWithTheirTypeLeftOut) {
  for (const char* schema : {
           R"({"oneOf": [{"properties": {"is": {"const": {"a": 1}}}, "required": ["is"]},
                         {"properties": {"is": {"const": {"a": 2}}}, "required": ["is"]}]})",
           R"({"oneOf": [{"properties": {"is": {"const": "a"}}, "required": ["is"]},
                         {"type": "object", "properties": {"is": {"enum": ["b"]}},
                          "required": ["is"]}]})",
       }) {
    EXPECT_TRUE(CheckedJsonSchema(schema).ok()) << CheckedJsonSchema(schema).status();
  }
}

}  // namespace
}  // namespace kvship
