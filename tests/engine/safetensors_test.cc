#include "engine/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/model_files.h"

namespace kvship {
namespace {

using testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

void ExpectError(const std::string& bytes, absl::StatusCode code, const std::string& words) {
  const TempFolder folder;
  const auto file = ReadSafetensors(folder.Write("model.safetensors", bytes));
  EXPECT_EQ(file.status().code(), code) << file.status();
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(words));
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("model.safetensors"));
}

// A file of one tensor "w" with this description and `num_data_bytes` of data.
std::string OneTensor(const std::string& description, size_t num_data_bytes) {
  return SafetensorsBytes(R"({"w":)" + description + "}", std::string(num_data_bytes, '\0'));
}

TEST(Safetensors, GivesTensorsInPlace) {
  const TempFolder folder;
  const std::string data = RandomFloats(6, 1) + std::string("abcd");
  const std::string path = folder.Write(
      "model.safetensors",
      SafetensorsBytes(
          R"({"__metadata__":{"format":"pt"},"h":{"dtype":"F16","shape":[2],"data_offsets":[24,28]},)"
          R"("w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})",
          data));
  const auto file = ReadSafetensors(path);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors.size(), 2u);
  const FileTensor& w = file->tensors.at("w");
  EXPECT_EQ(w.format, WeightFormat::kF32);
  EXPECT_THAT(w.shape, testing::ElementsAre(2, 3));
  EXPECT_EQ(std::memcmp(w.bytes.data(), data.data(), 24), 0);
  EXPECT_EQ(file->tensors.at("h").format, WeightFormat::kF16);
}

TEST(Safetensors, RefusesAHeaderPastTheEnd) {
  ExpectError("1234567", kInvalid, "too few");
  ExpectError(BytesOf(uint64_t{3}) + "{}", kInvalid, "header length is 3");
  ExpectError(BytesOf(UINT64_MAX) + "{}", kInvalid, "header length is");
  ExpectError(SafetensorsBytes("[1]", ""), kInvalid, "JSON object");
  ExpectError(SafetensorsBytes("{\"w\":", ""), kInvalid, "not valid JSON");
}

TEST(Safetensors, RefusesTensorsThatDoNotFitTheFile) {
  ExpectError(OneTensor(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", 4), kInvalid,
              "tensor w: data_offsets is [0, 8]");
  ExpectError(OneTensor(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", 8), kInvalid,
              "data_offsets is [8, 0]");
  ExpectError(OneTensor(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})", 8), kInvalid,
              "data_offsets is [0]");
  ExpectError(OneTensor(R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})", 8), kInvalid,
              "data_offsets is not a list");
  ExpectError(OneTensor(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", 8), kInvalid,
              "span 8 bytes, but dtype and shape take 12");
  ExpectError(
      OneTensor(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", 0),
      kInvalid, "shape has a dimension");
  ExpectError(OneTensor(R"({"dtype":"F32","data_offsets":[0,8]})", 8), kInvalid, "shape is not");
  ExpectError(OneTensor("7", 8), kInvalid, "wanted a JSON object");
}

TEST(Safetensors, RefusesHolesOverlapsAndRepeatedNames) {
  ExpectError(OneTensor(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})", 8), kInvalid,
              "overlap or leave a hole at data offset 4");
  ExpectError(OneTensor(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})", 8), kInvalid,
              "has 8 bytes of data");
  const std::string entry = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  ExpectError(SafetensorsBytes(R"({"w":)" + entry + R"(,"v":)" + entry + "}", "1234"), kInvalid,
              "overlap");
  ExpectError(SafetensorsBytes(R"({"w":)" + entry + R"(,"w":)" + entry + "}", "1234"), kInvalid,
              "w is there twice");
}

TEST(Safetensors, NamesTheDtypeItDoesNotRead) {
  ExpectError(OneTensor(R"({"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]})", 4),
              absl::StatusCode::kUnimplemented, "dtype is F8_E4M3");
}

TEST(Safetensors, RefusesEveryTruncation) {
  const TempFolder folder;
  const std::string whole = ReadBytes(KVSHIP_GOLDENS "/models/llama_bf16_tied/model.safetensors");
  ASSERT_GT(whole.size(), 4000u);
  for (size_t num_bytes = 1; num_bytes < whole.size(); num_bytes += num_bytes < 4000 ? 13 : 9001) {
    const auto file =
        ReadSafetensors(folder.Write("model.safetensors", whole.substr(0, num_bytes)));
    ASSERT_EQ(file.status().code(), kInvalid) << num_bytes;
  }
}

TEST(Safetensors, DamageGivesAnErrorOrTensorsButNoCrash) {
  const TempFolder folder;
  const std::string whole = OneTensor(R"({"dtype":"F32","shape":[2,3],"data_offsets":[0,24]})", 24);
  size_t num_read = 0;
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    const std::string path =
        folder.Write("model.safetensors", Damage(whole, whole.size() - 24, seed));
    const auto file = ReadSafetensors(path);
    num_read += file.ok();
    ASSERT_TRUE(file.ok() || file.status().code() == kInvalid ||
                file.status().code() == absl::StatusCode::kUnimplemented)
        << file.status();
  }
  EXPECT_GT(num_read, 20u);
}

class Shards : public testing::Test {
 protected:
  void SetUp() override {
    const auto shard = [](const std::string& name) {
      return SafetensorsBytes(
          "{\"" + name + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "1234");
    };
    folder_.Write("model-00001-of-00002.safetensors", shard("a"));
    folder_.Write("model-00002-of-00002.safetensors", shard("b"));
  }
  absl::StatusOr<SafetensorsFiles> ReadWithIndex(const std::string& weight_map) {
    folder_.Write("model.safetensors.index.json", R"({"weight_map":)" + weight_map + "}");
    return ReadSafetensorsDirectory(folder_.path());
  }
  TempFolder folder_;
};

TEST_F(Shards, AreReadByTheirIndex) {
  const auto files = ReadWithIndex(
      R"({"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"})");
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(files->files.size(), 2u);
  EXPECT_TRUE(files->tensors.contains("a"));
  EXPECT_TRUE(files->tensors.contains("b"));
}

TEST_F(Shards, AreThePathsWhateverElseTheFolderHas) {
  folder_.Write("consolidated.safetensors", "the same weights once more");
  const std::string index = R"({"a":"model-00001-of-00002.safetensors",)"
                            R"("b":"model-00002-of-00002.safetensors",)"
                            R"("c":"model-00002-of-00002.safetensors"})";
  folder_.Write("model.safetensors.index.json", R"({"weight_map":)" + index + "}");
  EXPECT_THAT(*SafetensorsPaths(folder_.path()),
              testing::ElementsAre(folder_.path() + "/model-00001-of-00002.safetensors",
                                   folder_.path() + "/model-00002-of-00002.safetensors"));
  const std::string single = folder_.Write("model.safetensors", "");
  EXPECT_THAT(*SafetensorsPaths(folder_.path()), testing::ElementsAre(single));
}

TEST_F(Shards, MustAgreeWithTheirIndex) {
  EXPECT_EQ(ReadWithIndex(R"({"a":"model-00002-of-00002.safetensors"})").status().code(), kInvalid);
  EXPECT_EQ(ReadWithIndex(R"({"a":"model-00001-of-00002.safetensors",)"
                          R"("c":"model-00001-of-00002.safetensors"})")
                .status()
                .code(),
            kInvalid);
  EXPECT_EQ(ReadWithIndex(R"({"a":"missing.safetensors"})").status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(Shards, StayInsideTheFolder) {
  for (const char* map : {R"({"a":"../model-00001-of-00002.safetensors"})", R"({"a":"/etc/hosts"})",
                          R"({"a":""})", R"({"a":7})"}) {
    const auto files = ReadWithIndex(map);
    EXPECT_EQ(files.status().code(), kInvalid);
    EXPECT_THAT(std::string(files.status().message()), HasSubstr("does not name a file"));
  }
}

TEST(SafetensorsDirectory, SaysWhatAnEmptyOneLacks) {
  const TempFolder folder;
  for (const absl::Status& status : {ReadSafetensorsDirectory(folder.path()).status(),
                                     SafetensorsPaths(folder.path()).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(std::string(status.message()), HasSubstr("wanted model.safetensors"));
  }
}

}  // namespace
}  // namespace kvship
