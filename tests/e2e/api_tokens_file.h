// The tokens of some clients, in a file as --api_tokens_file takes it.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"

namespace kvship {

class ApiTokensFile {
 public:
  explicit ApiTokensFile(const std::vector<std::string>& names) {
    std::ofstream file(path_);
    for (const std::string& name : names) {
      const std::string token = TokenOf(name);
      Sha256 hash;
      hash.Update(std::as_bytes(std::span(token)));
      file << name << ":" << HexString(hash.Finish()) << "\n";
    }
  }
  ~ApiTokensFile() { std::filesystem::remove(path_); }
  ApiTokensFile(const ApiTokensFile&) = delete;
  ApiTokensFile& operator=(const ApiTokensFile&) = delete;

  std::string flag() const { return "--api_tokens_file=" + path_; }
  static std::string TokenOf(const std::string& name) { return name + "'s token"; }

 private:
  const std::string path_ =
      std::filesystem::temp_directory_path() / absl::StrCat("kvship_clients_", getpid());
};

}  // namespace kvship
