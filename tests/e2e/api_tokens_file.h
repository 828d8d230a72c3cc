// The tokens of some clients, in a file as --api_tokens_file takes it.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "tests/temp_folder.h"

namespace kvship {

class ApiTokensFile {
 public:
  explicit ApiTokensFile(const std::vector<std::string>& names) { WriteTokensOf(names); }

  // Replaces it: each client's token is TokenOf its name from now on.
  void WriteTokensOf(const std::vector<std::string>& names) const {
    std::string lines;
    for (const std::string& name : names) absl::StrAppend(&lines, LineOf(name, TokenOf(name)));
    Write(lines);
  }
  void Write(const std::string& lines) const {
    std::filesystem::rename(folder_.Write("next", lines), path_);
  }

  std::string flag() const { return "--api_tokens_file=" + path_; }
  static std::string TokenOf(const std::string& name) { return name + "'s token"; }
  static std::string LineOf(const std::string& name, const std::string& token) {
    Sha256 hash;
    hash.Update(std::as_bytes(std::span(token)));
    return absl::StrCat(name, ":", HexString(hash.Finish()), "\n");
  }

 private:
  const TempFolder folder_;
  const std::string path_ = folder_.path() + "/tokens";
};

}  // namespace kvship
