// ApiTokens are the secrets by which clients are known. The file has one line per token, the
// client's name and the SHA-256 of the token in hexadecimal, so that who reads it learns no token:
//
//   # batch jobs
//   batch:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//
// A client may have several lines, as while its token is replaced. A changed file is read again
// before the next token is looked at; one without a token, or that cannot be read, changes nothing.
// Thread safe.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/sha256.h"
#include "service/file_version.h"

namespace kvship {

struct ApiToken {
  std::string client;
  Sha256Digest digest = {};
};

// InvalidArgument naming the line, and never quoting it.
absl::StatusOr<std::vector<ApiToken>> ParseApiTokens(absl::string_view text);

class ApiTokens {
 public:
  // Errors: NotFound, InvalidArgument without a token, or as ParseApiTokens, naming the file.
  static absl::StatusOr<std::unique_ptr<ApiTokens>> Load(const std::string& path);

  // The name of the client that has `token`; Unauthenticated if nobody has. How long it takes does
  // not depend on which digests resemble the token's.
  absl::StatusOr<std::string> ClientOf(absl::string_view token);

  // Whether the tokens are those in the file; false where that cannot be used as it is.
  bool AreCurrent();

 private:
  explicit ApiTokens(const std::string& path) : path_(path) {}
  absl::Status Read();
  // Reads a changed file. Under the lock.
  void Refresh();

  const std::string path_;
  std::mutex mutex_;
  FileVersion version_;
  bool are_current_ = true;
  bool is_unread_ = false;  // which may have been for want of a descriptor: it is tried again
  std::vector<ApiToken> tokens_;
};

}  // namespace kvship
