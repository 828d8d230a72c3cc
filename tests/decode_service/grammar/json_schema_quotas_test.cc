#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "decode_service/grammar/json_schema.h"
#include "tests/decode_service/grammar/checked_schema.h"

namespace kvship {
namespace {

using ::testing::EndsWith;
using ::testing::StartsWith;

// "x" so many times, with ", " between.
std::string Repeated(absl::string_view x, int times) {
  std::string text;
  for (int i = 0; i < times; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", absl::StrReplaceAll(x, {{"%", absl::StrCat(i)}}));
  }
  return text;
}

TEST(JsonSchemaQuotasTest, QuotasAreThoseOfARequest) {
  SchemaQuotas quotas;
  const std::string schema =
      absl::StrCat(R"({"properties": {)", Repeated(R"("p%": {})", 200), "}}");
  EXPECT_TRUE(CheckedJsonSchema(schema, quotas).ok());
  EXPECT_TRUE(CheckedJsonSchema(schema, quotas).ok());
  EXPECT_EQ(CheckedJsonSchema(schema, quotas).status().message(),
            " has 600 or more properties and prefixItems; wanted at most 512");
}

TEST(JsonSchemaQuotasTest, QuotasEndWhereTheySay) {
  // `%` in what is repeated is its number. The most, and what is said of one more.
  const struct {
    std::string before, repeated, behind;
    int most;
    std::string message;
  } rows[] = {
      {R"({"properties": {)", R"("p%": {})", "}}", 512,
       " has 513 or more properties and prefixItems; wanted at most 512"},
      {R"({"enum": [)", "%", "]}", 500, " has 501 or more values of enum and const; wanted"},
      {R"({"anyOf": [)", R"({"const": %})", "]}", 65,
       " has 65 or more further alternatives of anyOf and oneOf; wanted at most 64"},
      {R"({"anyOf": [{"type": "null"}, )", "{}", "]}", 65, " has 65 or more further alternatives"},
      {R"({"type": "array", "prefixItems": [)", "{}", "]}", 512, " has 513 or more properties and"},
      {R"({"$defs": {)", R"("d%": {"anyOf": [{}, {}]})", "}}", 64,
       " has 65 or more further alternatives"},
      {R"({"$defs": {)", R"("d%": {"const": 1})", "}}", 500, " has 501 or more values"},
      {R"({"$defs": {)", R"("d%": {"$ref": "#"})", "}}", 300,
       " has 301 or more references; wanted at most 300"},
      {R"({"$defs": {)", R"("d%": {"properties": {"a": {}}})", "}}", 512, " has 513 or more prop"},
      {R"({"$defs": {)", R"("d%": {"type": "string", "format": "date"})", "}}", 100,
       " has 101 or more formats; wanted at most 100"},
      {R"({"$defs": {)", R"("d%": {"type": "integer", "maximum": 5})", "}}", 400,
       " has 401 or more numbers with bounds; wanted at most 400"},
      {R"({"$defs": {)", R"("d%": {"type": "string", "pattern": "^a{100}$"})", "}}", 10,
       " has 1100 or more steps to match patterns; wanted at most 1000"},
  };
  for (const auto& row : rows) {
    const auto of = [&row](int n) { return row.before + Repeated(row.repeated, n) + row.behind; };
    EXPECT_TRUE(CheckedJsonSchema(of(row.most)).ok()) << Checked(of(row.most));
    EXPECT_THAT(Checked(of(row.most + 1)), StartsWith(row.message));
  }
}

TEST(JsonSchemaQuotasTest, TimeToCompileIsBounded) {
  // What each quota allows by itself takes seconds or minutes where it stands beside others.
  const std::string wide = R"({"type": "number", "minimum": -98765432.123456, "maximum": 9e14})";
  const std::string rows[] = {
      wide,
      absl::StrCat(R"({"items": )", wide, R"(, "maxItems": 128})"),
      R"({"type": "array", "maxItems": 128})",
      R"({"items": {"type": "string", "format": "ipv6"}, "maxItems": 128})",
      R"({"type": "string", "pattern": "^[a-z ]{50}$"})",
      R"({"items": {"$ref": "#/$defs/a"}, "maxItems": 128})",
  };
  for (const std::string& row : rows) {
    const auto of = [&row](int n) {
      return absl::StrCat(R"({"$defs": {"a": {"type": "integer", "minimum": 0}}, "properties": {)",
                          Repeated(absl::StrCat(R"("p%": )", row), n), "}}");
    };
    EXPECT_TRUE(CheckedJsonSchema(of(3)).ok()) << Checked(of(3));
    const std::string message = Checked(of(399));
    EXPECT_THAT(message, StartsWith(" has 2")) << row;
    EXPECT_THAT(message, EndsWith(" or more microseconds to compile, as estimated; wanted at most "
                                  "2000000"));
  }
}

TEST(JsonSchemaQuotasTest, SchemasThatPeopleWriteAreFarBelow) {
  const auto object = [](const std::string& property, int n) {
    return absl::StrCat(R"({"properties": {)",
                        Repeated(absl::StrCat(R"("some_property_%": )", property), n), "}}");
  };
  const std::string price = R"({"type": "number", "minimum": 0, "maximum": 99999.99})";
  const std::string small = object(R"({"type": "integer", "minimum": 1, "maximum": 5})", 10);
  const std::string rows[] = {
      object(price, 50),
      absl::StrCat(R"({"items": )", object(price, 50), R"(, "maxItems": 128})"),
      object(absl::StrCat(R"({"items": )", small, R"(, "minItems": 1, "maxItems": 128})"), 10),
      object(R"({"items": {"enum": ["one", "two"]}, "maxItems": 10})", 100),
      object(R"({"type": "string", "format": "date-time"})", 100),
      object(R"({"type": "string", "maxLength": 200})", 300),
      object(R"({"type": "string", "pattern": "^[\\w.+-]+@[\\w-]+(\\.[\\w-]+)+$"})", 20),
      object(R"({"type": "string", "pattern": "^[a-z0-9-]{1,40}$"})", 5),
  };
  for (const std::string& row : rows) {
    SchemaQuotas quotas;
    const auto checked = CheckedJsonSchema(row, quotas);
    EXPECT_EQ(checked.status(), absl::OkStatus()) << row;
    EXPECT_LT(quotas.microseconds.used, quotas.microseconds.most / 2) << row;
  }
}

TEST(JsonSchemaQuotasTest, ToolsShareTheTimeToCompile) {
  const std::string numbers = Repeated(R"("p%": {"type": "number", "minimum": 0.5})", 200);
  const std::string schema = absl::StrCat(R"({"properties": {)", numbers, "}}");
  SchemaQuotas quotas;
  EXPECT_TRUE(CheckedJsonSchema(schema, quotas).ok());
  EXPECT_THAT(std::string(CheckedJsonSchema(schema, quotas).status().message()),
              StartsWith(" has 20"));
}

TEST(JsonSchemaQuotasTest, NamesOfPropertiesAreBounded) {
  const auto of = [](size_t bytes) {
    return absl::StrCat(R"({"properties": {")", std::string(bytes, 'x'), R"(": {}}})");
  };
  EXPECT_TRUE(CheckedJsonSchema(of(128)).ok());
  EXPECT_THAT(Checked(of(129)), StartsWith(R"(.properties is "xxx)"));
  EXPECT_THAT(Checked(of(129)), EndsWith("; wanted names of at most 128 bytes"));
}

TEST(JsonSchemaQuotasTest, AlternativesThatAreNullCostNothing) {
  const std::string optional = R"("p%": {"anyOf": [{"type": "string"}, {"type": "null"}]})";
  EXPECT_TRUE(
      CheckedJsonSchema(absl::StrCat(R"({"properties": {)", Repeated(optional, 200), "}}")).ok());
}

TEST(JsonSchemaQuotasTest, BytesOfValuesAreBounded) {
  // As a list of one, in quotes.
  const auto of = [](size_t bytes) {
    return absl::StrCat(R"({"const": ")", std::string(bytes - 4, 'x'), "\"}");
  };
  EXPECT_TRUE(CheckedJsonSchema(of(16 << 10)).ok());
  EXPECT_EQ(Checked(of((16 << 10) + 1)),
            " has 16385 or more bytes of values; wanted at most 16384");
}

TEST(JsonSchemaQuotasTest, BytesOfTheSchemaAreBounded) {
  const auto of = [](size_t bytes) {
    return absl::StrCat(R"({"title": ")", std::string(bytes - 13, 'x'), "\"}");
  };
  EXPECT_EQ(Checked(of(64 << 10)), "{}");
  EXPECT_EQ(Checked(of((64 << 10) + 1)), " has 65537 bytes; wanted at most 65536");
}

TEST(JsonSchemaQuotasTest, DepthIsBounded) {
  const auto of = [](int depth) {
    std::string schema = "{}";
    for (int i = 1; i < depth; ++i) schema = absl::StrCat(R"({"items": )", schema, "}");
    return schema;
  };
  EXPECT_TRUE(CheckedJsonSchema(of(64)).ok());
  EXPECT_EQ(Checked(of(65)), " is nested deeper than 64; wanted at most that");
  EXPECT_EQ(Checked(std::string(60000, '[')), " is no JSON object; wanted one");
}

}  // namespace
}  // namespace kvship
