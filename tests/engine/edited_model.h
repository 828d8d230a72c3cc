// Models that a test changes, and what their loading then says.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/transformer.h"
#include "tests/engine/model_files.h"

namespace kvship {

inline constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
inline constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

inline std::string Golden(const std::string& name) { return KVSHIP_GOLDENS "/models/" + name; }

// A copy of a golden model whose configuration a test changes.
class EditedModel {
 public:
  explicit EditedModel(const std::string& name = "llama") {
    std::filesystem::copy(Golden(name), folder_.path());
    config = nlohmann::json::parse(ReadBytes(folder_.path() + "/config.json"));
  }
  void Write() const { folder_.Write("config.json", config.dump()); }
  absl::StatusOr<std::unique_ptr<const Transformer>> Load() const {
    Write();
    return LoadTransformer(folder_.path());
  }
  void ExpectError(absl::StatusCode code, const std::string& words) const {
    const auto model = Load();
    EXPECT_EQ(model.status().code(), code) << model.status();
    EXPECT_THAT(std::string(model.status().message()), testing::HasSubstr(words));
  }
  const TempFolder& folder() const { return folder_; }
  nlohmann::json config;

 private:
  TempFolder folder_;
};

inline void ExpectGgufError(const GgufWriter& gguf, absl::StatusCode code,
                            const std::string& words) {
  const TempFolder folder;
  const auto model = LoadTransformer(folder.Write("model.gguf", gguf.Bytes()));
  EXPECT_EQ(model.status().code(), code) << model.status();
  EXPECT_THAT(std::string(model.status().message()), testing::HasSubstr(words));
}

}  // namespace kvship
