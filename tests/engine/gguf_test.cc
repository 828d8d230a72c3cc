#include "engine/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/chat_template.h"
#include "engine/tokenizer.h"
#include "engine/transformer.h"
#include "tests/engine/model_files.h"

namespace kvship {
namespace {

using testing::HasSubstr;

absl::StatusOr<GgufFile> OpenBytes(const std::string& bytes) {
  const TempFolder folder;
  return GgufFile::Open(folder.Write("model.gguf", bytes));
}

void ExpectError(const GgufWriter& gguf, absl::StatusCode code, const std::string& words) {
  const auto file = OpenBytes(gguf.Bytes());
  EXPECT_EQ(file.status().code(), code) << file.status();
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(words));
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("model.gguf"));
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

TEST(Gguf, ReadsMetadata) {
  GgufWriter gguf;
  gguf.Count("count", 7).Number("number", 0.5f).Name("name", "x y");
  gguf.Value("flag", kGgufBool, "\1").Names("names", {"a", "", "bc"});
  gguf.Integers("integers", {-1, 2}).Value("wide", 10, BytesOf(uint64_t{1} << 40));
  const auto file = OpenBytes(gguf.Bytes());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(**file->Count("count"), 7u);
  EXPECT_EQ(**file->Count("wide"), uint64_t{1} << 40);
  EXPECT_EQ(**file->Number("number"), 0.5);
  EXPECT_EQ(**file->Number("count"), 7);
  EXPECT_EQ(**file->Flag("flag"), true);
  EXPECT_EQ(**file->Text("name"), "x y");
  EXPECT_THAT(**file->Texts("names"), testing::ElementsAre("a", "", "bc"));
  EXPECT_THAT(**file->Integers("integers"), testing::ElementsAre(-1, 2));
}

TEST(Gguf, TellsAnAbsentKeyFromOneOfAnotherType) {
  GgufWriter gguf;
  gguf.Name("name", "x").Value("negative", kGgufInt32, BytesOf(int32_t{-1}));
  const auto file = OpenBytes(gguf.Bytes());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_FALSE(file->Count("absent")->has_value());
  EXPECT_EQ(file->Count("name").status().code(), kInvalid);
  EXPECT_EQ(file->Count("negative").status().code(), kInvalid);
  EXPECT_THAT(std::string(file->Count("negative").status().message()),
              HasSubstr("metadata negative is -1; wanted an integer of 0 or more"));
  EXPECT_EQ(file->Texts("name").status().code(), kInvalid);
  EXPECT_EQ(file->RequiredCount("absent").status().code(), kInvalid);
}

TEST(Gguf, GivesTensorsWithTheOutermostDimensionFirst) {
  const std::string first = RandomFloats(6, 1);
  const std::string second(34 * 2, 'q');
  GgufWriter gguf;
  gguf.Tensor("first", {3, 2}, kGgufF32, first).Tensor("second", {64}, kGgufQ8_0, second);
  const auto file = OpenBytes(gguf.Bytes());
  ASSERT_TRUE(file.ok()) << file.status();
  const FileTensor& a = file->tensors().at("first");
  EXPECT_THAT(a.shape, testing::ElementsAre(2, 3));
  EXPECT_EQ(a.format, WeightFormat::kF32);
  EXPECT_EQ(std::memcmp(a.bytes.data(), first.data(), first.size()), 0);
  const FileTensor& b = file->tensors().at("second");
  EXPECT_EQ(b.format, WeightFormat::kQ8_0);
  EXPECT_EQ(b.bytes.size(), second.size());
}

TEST(Gguf, NamesTheFileThatIsNotThere) {
  const auto file = GgufFile::Open("/nowhere/model.gguf");
  EXPECT_EQ(file.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("/nowhere/model.gguf"));
}

TEST(Gguf, RefusesWhatIsNotGgufOrOfAnotherVersion) {
  EXPECT_EQ(OpenBytes("GGU").status().code(), kInvalid);
  EXPECT_EQ(OpenBytes(std::string(100, 'x')).status().code(), kInvalid);
  GgufWriter gguf;
  gguf.version = 1;
  ExpectError(gguf, kUnimplemented, "version 1");
  gguf.version = 3u << 24;
  ExpectError(gguf, kUnimplemented, "big-endian");
}

TEST(Gguf, RefusesCountsTheFileCannotHold) {
  GgufWriter gguf;
  gguf.num_values = uint64_t{1} << 60;
  ExpectError(gguf, kInvalid, "number of metadata values");
  gguf.num_values = 0;
  gguf.num_tensors = uint64_t{1} << 60;
  ExpectError(gguf, kInvalid, "number of tensors");
}

TEST(Gguf, RefusesLengthsPastTheEnd) {
  ExpectError(GgufWriter().Value("key", kGgufString, BytesOf(UINT64_MAX)), kInvalid,
              "metadata key takes");
  const std::string absurd = BytesOf(uint32_t{kGgufFloat32}) + BytesOf(uint64_t{1} << 62);
  ExpectError(GgufWriter().Value("list", kGgufArray, absurd), kInvalid, "metadata list has");
  const std::string nested = BytesOf(uint32_t{kGgufArray}) + BytesOf(uint64_t{1});
  ExpectError(GgufWriter().Value("list", kGgufArray, nested), kInvalid, "array of type 9");
  ExpectError(GgufWriter().Value("key", 13, ""), kInvalid, "has type 13");
}

TEST(Gguf, RefusesWhatIsThereTwice) {
  ExpectError(GgufWriter().Count("key", 1).Count("key", 1), kInvalid, "key is there twice");
  const std::string data = RandomFloats(8, 1);
  ExpectError(GgufWriter().Tensor("t", {8}, kGgufF32, data).Tensor("t", {8}, kGgufF32, data),
              kInvalid, "t is there twice");
}

TEST(Gguf, RefusesTensorsThatDoNotFitTheFile) {
  const std::string data = RandomFloats(64, 1);
  const auto with = [&](const std::vector<uint64_t>& dims, uint32_t format, uint64_t offset) {
    GgufWriter gguf;
    return gguf.Tensor("good", {64}, kGgufF32, data).Entry("bad", dims, format, offset);
  };
  ExpectError(with({64}, kGgufF32, 8), kInvalid, "bad lies at offset 8");
  ExpectError(with({64}, kGgufF32, 32), kInvalid, "bad needs 64 blocks");
  ExpectError(with({64}, kGgufF32, uint64_t{1} << 63), kInvalid, "bad needs 64 blocks");
  ExpectError(with({0}, kGgufF32, 0), kInvalid, "bad: dimension 0 is 0");
  ExpectError(with({uint64_t{1} << 33, uint64_t{1} << 33}, kGgufF32, 0), kInvalid, "tensor bad");
  ExpectError(with({1, 1, 1, 1, 1}, kGgufF32, 0), kInvalid, "bad has 5 dimensions");
  ExpectError(with({48}, kGgufQ8_0, 0), kInvalid, "bad has rows of 48");
}

TEST(Gguf, NamesTheFormatItDoesNotRead) {
  const std::string data = RandomFloats(64, 1);
  ExpectError(GgufWriter().Tensor("w", {64}, kGgufIQ3_S, data), kUnimplemented,
              "format IQ3_S; wanted one of F32, F16, Q4_0,");
  ExpectError(GgufWriter().Tensor("w", {64}, 4, data), kInvalid, "format 4");
  ExpectError(GgufWriter().Tensor("w", {64}, 5000, data), kInvalid, "format 5000");
}

TEST(Gguf, RefusesAnAlignmentThatIsNone) {
  for (const uint32_t alignment : {0u, 1u, 24u, 1u << 31}) {
    ExpectError(GgufWriter().Count("general.alignment", alignment), kInvalid, "general.alignment");
  }
}

TEST(Gguf, RefusesEveryTruncation) {
  const TempFolder folder;
  const std::string whole = TinyGguf().Bytes();
  ASSERT_TRUE(GgufFile::Open(folder.Write("model.gguf", whole)).ok());
  for (size_t num_bytes = 0; num_bytes < whole.size(); num_bytes += num_bytes < 3000 ? 1 : 97) {
    const auto file = GgufFile::Open(folder.Write("model.gguf", whole.substr(0, num_bytes)));
    ASSERT_EQ(file.status().code(), kInvalid) << num_bytes;
  }
}

TEST(Gguf, DamageGivesAnErrorOrAModelButNoCrash) {
  const TempFolder folder;
  const std::string whole = TinyGguf().Bytes();
  const std::vector<ChatMessage> messages = {{"user", "the and in"}};
  size_t num_loaded = 0;
  constexpr size_t kNumTrials = 1500;
  for (uint64_t seed = 0; seed < kNumTrials; ++seed) {
    const std::string path = folder.Write("model.gguf", Damage(whole, 2500, seed));
    const auto model = LoadTransformer(path);
    const auto code = model.status().code();
    ASSERT_TRUE(model.ok() || code == kInvalid || code == kUnimplemented) << model.status();
    num_loaded += model.ok();
    const auto tokenizer = Tokenizer::Load(path);
    if (!tokenizer.ok()) continue;
    (*tokenizer)->Encode("the and in<|im_end|>", true).IgnoreError();
    const auto chat = ChatTemplate::Load(path, **tokenizer);
    if (chat.ok()) chat->Render(messages).IgnoreError();
  }
  // Damage to weights alone goes unnoticed, damage to the header does not.
  EXPECT_GT(num_loaded, kNumTrials / 20);
  EXPECT_LT(num_loaded, kNumTrials * 3 / 4);
}

}  // namespace
}  // namespace kvship
